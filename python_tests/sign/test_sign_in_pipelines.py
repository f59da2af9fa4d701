"""A SignTransform in pipelines: copied, pickled, sent to worker processes, and called."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from networks import tiny_cnn
from pipeline_dataset import Transformed
from sign_checks import STEP, assert_moved_like, reference
from torch import nn
from torch.utils.data import DataLoader

from sign_ext import SignTransform, TuningPlan
from sign_ext.engine.fused.engine import FusedEngine

OPTIONS = {
    "step_size": STEP,
    "momentum": 0.5,
    "linearize_at": "iterate",
    "clamp": (None, 300.0),
    "batch_size": 2,
    "precision": "float32",
}


def again(sign: SignTransform) -> SignTransform:
    return pickle.loads(pickle.dumps(sign))


@pytest.mark.parametrize("make", [again, copy.deepcopy, copy.copy])
@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("backend", ["auto", "autograd"])
def test_a_copy_does_the_same(model, images, make, used, backend):
    sign = SignTransform(model, 3, snapshots=(1, 3), backend=backend, **OPTIONS)
    if used:
        sign.transform(images)
    other = make(sign)
    assert other.settings == sign.settings
    assert other.engines is not sign.engines
    assert (other.model is model) == (make is copy.copy)
    got = other.transform(images)
    for k in (1, 3):
        expected = reference(model, images, k, step_size=STEP, momentum=0.5, clamp=(None, 300.0))
        assert_moved_like(got[k], expected, images)


def test_caches_and_locks_stay_at_home(model, images):
    sign = SignTransform(model, 2, step_size=STEP)
    size = len(pickle.dumps(sign))
    sign.transform(images)
    sign.transform(images[:2], model_kwargs={})
    assert sign.source_layer() is not None
    assert len(pickle.dumps(sign)) == size
    assert again(sign).source_layer() is None

    def compiled_by(transform: SignTransform) -> int:
        engine = transform.engines.fused
        assert isinstance(engine, FusedEngine)
        return len(engine._kept)

    if sign.explain(images).backend == "fused":
        assert compiled_by(sign) > 0
        assert compiled_by(copy.deepcopy(sign)) == 0


def test_a_copy_is_made_while_another_thread_is_at_work(model, images):
    sign = SignTransform(model, 2, step_size=STEP)
    entered, leave = threading.Event(), threading.Event()

    def wait(done, total):
        entered.set()
        leave.wait(60)

    thread = threading.Thread(target=sign.transform, args=(images,), kwargs={"progress": wait})
    thread.start()
    try:
        entered.wait(60)
        got = again(sign).transform(images)  # whose lock is its own
    finally:
        leave.set()
        thread.join()
    assert_moved_like(got, reference(model, images, 2, step_size=STEP), images)


def test_a_deep_copy_has_its_own_network(model, images):
    sign = SignTransform(model, 2, step_size=STEP)
    before = sign.transform(images)
    other = copy.deepcopy(sign)
    with torch.no_grad():
        other.model[1].weight.mul_(-1)
    assert torch.equal(sign.transform(images), before)
    expected = reference(other.model, images, 2, step_size=STEP)
    assert_moved_like(other.transform(images), expected, images)


@pytest.mark.parametrize("make", [again, copy.deepcopy])
def test_the_plan_travels(model, images, make):
    measuring = SignTransform(model, 2, step_size=STEP, tune=True)
    measuring.transform(images)
    other = make(measuring)
    assert other.plan == measuring.plan
    assert other.engines.fused.measure
    assert other.engines.fused.tuning_plan is other.plan
    fixed = make(SignTransform(model, 2, tune=TuningPlan("elsewhere")))
    assert fixed.plan.machine == "elsewhere"
    assert not fixed.engines.fused.measure


def test_wrapped_networks_travel(model, images):
    sign = again(SignTransform(nn.DataParallel(model), 2, step_size=STEP))
    expected = reference(model, images, 2, step_size=STEP)
    assert_moved_like(sign.transform(images), expected, images)


def test_a_subclass_travels(model, images):
    sign = again(Quiet(model, 2, step_size=STEP))
    assert isinstance(sign, Quiet)
    assert torch.equal(sign(images), SignTransform(model, 2, step_size=STEP)(images))


class Quiet(SignTransform):
    """What a user may derive."""


@pytest.mark.slow  # a worker imports torch anew
def test_spawned_workers(model, torch_rng):
    images = torch.rand(4, 3, 9, 11, generator=torch_rng) * 255
    sign = SignTransform(model, 2, step_size=STEP)
    sign.transform(images)  # so that it holds compiled steps
    loader = DataLoader(
        Transformed(sign, images), batch_size=None, num_workers=1, multiprocessing_context="spawn"
    )
    got, in_worker = zip(*loader, strict=True)
    assert all(in_worker)
    expected = reference(model, images, 2, step_size=STEP)
    assert_moved_like(torch.cat(got), expected, images)


def test_a_call_is_transform(model, images):
    sign = SignTransform(model, 3, step_size=STEP)
    expected = reference(model, images, 3, step_size=STEP)
    assert_moved_like(sign(images), expected, images)
    labels, names = torch.arange(5), ["a", "b"]
    moved, *others = sign(images, labels, names)
    assert_moved_like(moved, expected, images)
    assert others[0] is labels
    assert others[1] is names
    both = SignTransform(model, 3, step_size=STEP, snapshots=(1, 3))(images)
    assert sorted(both) == [1, 3]
    assert_moved_like(both[3], expected, images)
    with pytest.raises(ValueError, match=r"images\[None\]"):
        sign(images[0])


def test_in_torchvisions_pipelines(torch_rng):
    v2 = pytest.importorskip("torchvision.transforms.v2")
    tv_tensors = pytest.importorskip("torchvision.tv_tensors")
    model = tiny_cnn().eval()
    sign = SignTransform(model, 2, step_size=STEP)
    pixels = torch.randint(0, 256, (4, 3, 9, 11), generator=torch_rng, dtype=torch.uint8)
    images, labels = tv_tensors.Image(pixels), torch.arange(4)
    compose = v2.Compose(
        [
            v2.RandomHorizontalFlip(p=1.0),
            v2.ToDtype(torch.float32),
            sign,
            v2.Normalize([0.0] * 3, [2.0] * 3),
        ]
    )
    flipped = pixels.flip(3).float()
    expected = reference(model, flipped, 2, step_size=STEP)
    assert_moved_like(compose(images).mul(2), expected, flipped)
    moved, same = compose(images, labels)
    assert_moved_like(moved.mul(2), expected, flipped)
    assert torch.equal(same, labels)
    old = pytest.importorskip("torchvision.transforms").Compose([lambda x: x.flip(3).float(), sign])
    assert_moved_like(old(pixels), expected, flipped)


def test_a_batch_of_any_form_keeps_it(model, images):
    sign = SignTransform(model, 3, step_size=STEP)
    expected = reference(model, images, 3, step_size=STEP)
    labels, mask = torch.arange(5), torch.zeros(5, 1, 9, 11)

    for key in ("image", "images", "img", "pixel_values"):
        batch = {"mask": mask, "label": labels, key: images}
        moved = sign(batch)
        assert list(moved) == ["mask", "label", key]
        assert_moved_like(moved[key], expected, images)
        assert moved["label"] is labels
        assert moved["mask"] is mask
        assert batch[key] is images
    for batch in ([images, labels], (images, {"label": labels, "mask": mask})):
        moved = sign(batch)
        assert type(moved) is type(batch)
        assert_moved_like(moved[0], expected, images)
        assert moved[1] is batch[1]
    assert_moved_like(sign((labels, images))[1], expected, images)
    both = SignTransform(model, 3, step_size=STEP, snapshots=(1, 3))({"image": images})
    assert_moved_like(both["image"][3], expected, images)
    with pytest.raises(TypeError, match=r"no images; it holds: torch\.int64 \(5,\), str"):
        sign({"label": labels, "name": "x"})
    with pytest.raises(TypeError, match=r"images\.float"):
        sign({"image": images.byte()})
    with pytest.raises(TypeError, match=r"must be a torch\.Tensor, got str"):
        sign("image.png")


def test_images_among_torchvisions_tensors(torch_rng):
    v2 = pytest.importorskip("torchvision.transforms.v2")
    tv_tensors = pytest.importorskip("torchvision.tv_tensors")
    model = tiny_cnn().eval()
    sign = SignTransform(model, 2, step_size=STEP)
    pixels = torch.randint(0, 256, (4, 3, 9, 11), generator=torch_rng, dtype=torch.uint8)
    labels, mask = torch.arange(4), torch.randint(0, 5, (4, 9, 11), generator=torch_rng)
    expected = reference(model, pixels.float(), 2, step_size=STEP)
    compose = v2.Compose(
        [v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}), sign, v2.CenterCrop(5)]
    )
    sample = {"mask": tv_tensors.Mask(mask), "label": labels, "photo": tv_tensors.Image(pixels)}
    for batch in (sample, tuple(sample.values())):
        moved = compose(batch)
        values = list(moved.values()) if isinstance(moved, dict) else list(moved)
        assert [type(each) for each in values] == [tv_tensors.Mask, torch.Tensor, tv_tensors.Image]
        assert torch.equal(values[0], mask[:, 2:7, 3:8])
        assert torch.equal(values[1], labels)
        before = pixels.float()[..., 2:7, 3:8]
        assert_moved_like(values[2], expected[..., 2:7, 3:8], before)


def test_as_a_collate_function(model, images):
    sign = SignTransform(model, 2, step_size=STEP)
    rows = [{"image": image, "label": i} for i, image in enumerate(images)]
    collate = torch.utils.data.default_collate
    loader = DataLoader(rows, batch_size=5, collate_fn=lambda batch: sign(collate(batch)))
    (batch,) = loader
    assert batch["label"].tolist() == [0, 1, 2, 3, 4]
    expected = reference(model, images, 2, step_size=STEP)
    assert_moved_like(batch["image"], expected, images)


def test_another_k_for_one_call(model, images):
    sign = SignTransform(model, 2, step_size=STEP, momentum=0.5)
    for steps in (3, 1, 2):
        expected = reference(model, images, steps, step_size=STEP, momentum=0.5)
        assert_moved_like(sign.transform(images, steps=steps), expected, images)
    assert sign.settings.steps == 2
    many = SignTransform(model, 3, step_size=STEP, momentum=0.5, snapshots=(1, 3))
    expected = reference(model, images, 2, step_size=STEP, momentum=0.5)
    assert_moved_like(many.transform(images, steps=2), expected, images)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        sign.transform(images, steps=0)
