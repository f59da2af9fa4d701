"""The training set together with its transformed versions."""

import pytest
import torch

from sign_ext.augment import sign_training_set
from sign_ext.data import ImageSet


def originals(n=5):
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(0, 256, (n, 3, 7, 9), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(n) % 3, ("a", "b", "c"), "example/train")


def test_add_keeps_originals_first_then_rising_k_with_labels():
    base = originals()
    at_100, at_50 = base.float() + 0.75, base.float() - 3.25
    joined = sign_training_set(base, {100: at_100, 50: at_50})
    assert joined.images.dtype == torch.float32
    assert torch.equal(joined.images, torch.cat([base.float(), at_50, at_100]))
    assert torch.equal(joined.labels, torch.cat([base.labels] * 3))
    assert joined.class_names == base.class_names
    assert joined.name == "example/train+sign(50,100)"


def test_replace_leaves_the_originals_out_and_values_are_not_rounded_or_clamped():
    base = originals()
    far = base.float() * 1.5 - 100.125
    joined = sign_training_set(base, {7: far}, mode="replace")
    assert torch.equal(joined.images, far)
    assert float(joined.images.min()) < 0
    assert len(joined) == len(base)


def test_float_originals_and_the_inputs_memory_stay_apart():
    base = originals()
    floats = ImageSet(base.float() + 0.5, base.labels, base.class_names, base.name)
    snapshot = floats.images + 1
    joined = sign_training_set(floats, {1: snapshot})
    joined.images.zero_()
    assert float(floats.images.min()) > 0
    assert float(snapshot.min()) > 0


@pytest.mark.parametrize("mode", ["add", "replace"])
def test_random_k_takes_one_version_of_each_image(mode, torch_rng):
    base = originals(60)
    snapshots = {k: torch.full(base.images.shape, float(k)) for k in (100, 2, 30)}
    joined = sign_training_set(base, snapshots, mode=mode, random_k=torch_rng)
    kept = 60 if mode == "add" else 0
    assert len(joined) == kept + 60
    assert torch.equal(joined.images[:kept], base.float()[:kept])
    assert torch.equal(joined.labels, base.labels.repeat(2 if kept else 1))
    chosen = joined.images[kept:]
    assert torch.equal(chosen, chosen[:, :1, :1, :1].expand_as(chosen))  # no image is of two K
    assert set(chosen[:, 0, 0, 0].tolist()) == {2.0, 30.0, 100.0}
    assert joined.name == f"example/train{'+' if kept else '→'}sign(2|30|100)"


def test_random_k_is_uniform_keeps_the_order_and_follows_its_generator():
    base = originals(3000)
    snapshots = {k: base.float() + k for k in (1, 2, 3)}

    def drawn(seed):
        generator = torch.Generator().manual_seed(seed)
        joined = sign_training_set(base, snapshots, mode="replace", random_k=generator)
        moved = joined.images - base.float()
        return moved[:, 0, 0, 0].round().long()

    first = drawn(0)
    assert torch.bincount(first, minlength=4).tolist() == pytest.approx([0] + [1000] * 3, abs=100)
    assert torch.equal(first, drawn(0))
    assert not torch.equal(first, drawn(1))


@pytest.mark.parametrize(
    ("snapshots", "error", "match"),
    [
        ({}, ValueError, "empty"),
        ({50: torch.zeros(4, 3, 7, 9)}, ValueError, r"\(4, 3, 7, 9\).*\(5, 3, 7, 9\)"),
        ({50: torch.zeros(5, 3, 9, 7)}, ValueError, "shape"),
        ({50: torch.zeros(5, 3, 7, 9, dtype=torch.uint8)}, TypeError, "float32.*uint8"),
        ({50: [1, 2]}, TypeError, "list"),
        ({0: torch.zeros(5, 3, 7, 9)}, ValueError, "1 or more; got 0"),
        ({"50": torch.zeros(5, 3, 7, 9)}, ValueError, "'50'"),
        ({50: torch.full((5, 3, 7, 9), torch.nan)}, ValueError, "smaller step_size"),
    ],
)
def test_wrong_snapshots_are_refused(snapshots, error, match):
    with pytest.raises(error, match=match):
        sign_training_set(originals(), snapshots)


def test_unknown_mode():
    with pytest.raises(ValueError, match=r"'replace'.*'append'"):
        sign_training_set(originals(), {1: torch.zeros(5, 3, 7, 9)}, mode="append")
