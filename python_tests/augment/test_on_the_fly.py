"""SIGN of the network in training: what a batch becomes, and what the network keeps."""

from __future__ import annotations

import copy
import random
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sign_ext.augment import Augment, Compose, NoAugment, OnTheFlySign
from sign_ext.data import ImageSet
from sign_ext.engine.fused import programs
from sign_ext.ops.native import NATIVE
from sign_ext.training import TrainSettings, train

STEP = 30.0
LABELS = torch.arange(6) % 3


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """All tests of this file."""


@pytest.fixture
def model() -> nn.Module:
    """With BatchNorm and dropout, both of which training mode would show in."""
    body = (nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(0.3))
    net = nn.Sequential(*body, nn.Conv2d(5, 6, 3, stride=2), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*net, nn.Linear(6 * 3 * 4, 3))


@pytest.fixture
def images(torch_rng: torch.Generator) -> Tensor:
    return torch.rand(6, 3, 7, 9, generator=torch_rng) * 255


def expected(model: nn.Module, images: Tensor, steps: int) -> Tensor:
    """p*_K by plain autograd in float64, with a copy of the network as it is now."""
    exact = copy.deepcopy(model).double().eval()
    phi = nn.Sequential(*list(exact)[:-1])
    p = images.double()
    for _ in range(steps):
        x = p.detach().requires_grad_()
        (delta,) = torch.autograd.grad(phi(x).sum(), x)
        p = p + STEP * delta
    return p


def assert_moved(got: Tensor, model: nn.Module, images: Tensor, steps: int) -> None:
    wanted = expected(model, images, steps)
    moved = (wanted - images).norm()
    assert float((got - wanted).norm() / moved) < 1e-4


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor) -> None:
    model.train()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images / 255), LABELS).backward()
    optimizer.step()


def test_each_batch_takes_the_weights_as_they_are(model, images):
    augment = OnTheFlySign(model, steps=(1, 2, 3), step_size=STEP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    seen = set()
    for _ in range(5):
        moved, labels = augment(images, LABELS)
        assert labels is LABELS
        assert_moved(moved, model, images, augment.last_steps)
        seen.add(augment.last_steps)
        train_step(model, optimizer, images)
    assert len(seen) > 1


@pytest.mark.skipif(not NATIVE.loaded, reason=f"nothing is compiled: {NATIVE.why}")
def test_nothing_is_recorded_again_when_weights_or_k_change(model, images, monkeypatch):
    recorded = []
    record = programs.trace

    def counted(*arguments):
        recorded.append(arguments)
        return record(*arguments)

    monkeypatch.setattr(programs, "trace", counted)
    augment = OnTheFlySign(model, steps=6, step_size=STEP, backend="fused")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    while augment.last_steps in (None, 0):
        augment(images)
    bound = [next(iter(augment.sign.engines.fused._kept.values())).step]
    for _ in range(4):
        augment(images)
    assert [kept.step for kept in augment.sign.engines.fused._kept.values()] == bound
    for _ in range(6):
        train_step(model, optimizer, images)
        augment(images)
    assert len(recorded) == 1


def test_training_goes_on_as_without_it(model, images):
    """Gradients, statistics, flags and every random state are as if SIGN had not run."""
    other = copy.deepcopy(model)
    augment = OnTheFlySign(model, (2,), step_size=STEP)
    state: list[dict[str, Tensor]] = []
    for net, call in ((model, augment), (other, None)):
        torch.manual_seed(7)
        random.seed(7)
        np.random.seed(7)  # noqa: NPY002
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        generator = torch.Generator().manual_seed(3)
        for _ in range(3):
            net.train()
            loss = nn.functional.cross_entropy(net(images / 255), LABELS)
            loss.backward()  # gradients are there when SIGN runs
            if call is not None:
                flags = [m.training for m in net.modules()]
                call(images, LABELS, generator)
                assert flags == [m.training for m in net.modules()]
                assert all(p.requires_grad for p in net.parameters())
            optimizer.step()
            optimizer.zero_grad()
        drawn = torch.tensor([torch.rand(()), random.random(), np.random.rand()])  # noqa: NPY002
        state.append({**net.state_dict(), "drawn": drawn})
    for name, tensor in state[0].items():
        assert torch.equal(tensor, state[1][name]), name


def test_k_is_drawn_evenly_and_can_be_repeated(model, images):
    few = images[:1, :, :3, :3]
    net = nn.Sequential(nn.Flatten(), nn.Linear(27, 4), nn.ReLU(), nn.Linear(4, 2))

    def drawn(seed: int, **options) -> list[int]:
        augment = OnTheFlySign(net, **options)
        generator = torch.Generator().manual_seed(seed)
        return [augment._draw(generator) for _ in range(3000)]

    counts = Counter(drawn(1, steps=(0, 50, 100)))
    assert sorted(counts) == [0, 50, 100]
    for count in counts.values():
        assert abs(count - 1000) < 5 * (3000 * 2 / 9) ** 0.5
    assert sorted(set(drawn(1, steps=4))) == [0, 1, 2, 3, 4]
    rare = Counter(drawn(1, steps=(3,), probability=0.1))
    assert abs(rare[3] - 300) < 5 * (3000 * 0.09) ** 0.5
    assert drawn(2, steps=9) == drawn(2, steps=9) != drawn(3, steps=9)
    augment = OnTheFlySign(net, 3, step_size=STEP)
    torch.manual_seed(5)
    first = [augment(few) for _ in range(6)]
    torch.manual_seed(5)
    assert all(torch.equal(a, augment(few)) for a in first)
    own = OnTheFlySign(net, 3, step_size=STEP, generator=torch.Generator().manual_seed(1))
    before = torch.get_rng_state()
    own(few)
    assert torch.equal(before, torch.get_rng_state())


def test_no_step_leaves_the_batch_as_it_is(model, images):
    augment = OnTheFlySign(model, steps=(0,))
    assert augment(images) is images
    batch = {"image": images.byte(), "label": LABELS}
    assert augment(batch) is batch
    never = OnTheFlySign(model, steps=(5,), probability=0)
    assert never(images, LABELS)[0] is images
    assert never.last_steps == 0


def test_batches_of_any_form(model, images):
    augment = OnTheFlySign(model, (2,), step_size=STEP)
    moved = augment({"pixel_values": images, "labels": LABELS})
    assert moved["labels"] is LABELS
    assert_moved(moved["pixel_values"], model, images, 2)
    moved, _ = augment([images, LABELS])
    assert_moved(moved, model, images, 2)


def test_a_frozen_network_beside_the_one_in_training(model, images):
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    augment = OnTheFlySign(frozen, (2,), step_size=STEP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        train_step(model, optimizer, augment(images))
    assert_moved(augment(images), frozen, images, 2)
    assert not any(p.requires_grad for p in frozen.parameters())


def test_it_is_an_augmentation_of_train(model, tmp_path, torch_rng):
    pixels = torch.randint(0, 256, (24, 3, 7, 9), dtype=torch.uint8, generator=torch_rng)
    data = ImageSet(pixels, torch.arange(24) % 3, ("a", "b", "c"), "x")
    settings = TrainSettings(epochs=2, batch_size=6, learning_rate=0.01)
    results = []
    for k in (0, 2, 2):
        net = copy.deepcopy(model)
        augment = OnTheFlySign(net, (k,), step_size=STEP)
        assert isinstance(augment, Augment)
        both = Compose((NoAugment(), augment))
        train(net, data, data, settings, augment=both)
        results.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert torch.equal(results[1], results[2])
    assert not torch.equal(results[0], results[1])
    net = copy.deepcopy(model)
    augment = OnTheFlySign(net, (2,), step_size=STEP)
    train(net, data, data, settings, augment=augment, out=tmp_path / "run")
    other = OnTheFlySign(net, (2,), step_size=STEP / 2)
    with pytest.raises(ValueError, match="step_size"):
        train(net, data, data, settings, augment=other, out=tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"steps": ()}, ValueError, "name at least one"),
        ({"steps": (5, -1)}, ValueError, "0 or more"),
        ({"steps": (5, 2.0)}, TypeError, "integers"),
        ({"steps": "50"}, TypeError, "or the largest"),
        ({"steps": True}, TypeError, "or the largest"),
        ({"steps": 0}, ValueError, "at least 1"),
        ({"probability": 1.5}, ValueError, r"\[0, 1\]"),
        ({"probability": "often"}, TypeError, "a number"),
        ({"snapshots": (50,)}, TypeError, "Name them all in steps"),
        ({"step_size": "large"}, TypeError, "step_size"),
    ],
)
def test_what_is_out_of_range_is_refused(options, error, words, model):
    with pytest.raises(error, match=words):
        OnTheFlySign(model, **options)
