"""A thousand calls leave nothing behind, and the check of that finds what does leak."""

from __future__ import annotations

import itertools

import pytest
import torch
from held_memory import left_behind
from networks import tiny_cnn
from tensors import pixels

from sign_ext import SignTransform, iterative_sign
from sign_ext.engine.witness import CALLS, TURNS

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
CPU = torch.device("cpu")
# The check's random images are drawn anew in turn, and what belongs to them comes and goes with it.
A_TURN = TURNS * CALLS


def images_of(count: int, generator: torch.Generator, device: str) -> torch.Tensor:
    return pixels(generator, (count, 3, 9, 11), device)


@pytest.mark.parametrize("every", [1, 60])
def test_what_leaks_is_found(every: int) -> None:
    kept, calls = [], itertools.count(1)

    def leak() -> None:
        if next(calls) % every == 0:
            kept.append(torch.zeros(3))

    # Once among the last 90 calls is once too often.
    assert left_behind(leak, CPU, few=10, many=100) == {"live tensors": 90 if every == 1 else 1}


def test_what_is_kept_on_purpose_is_no_leak() -> None:
    kept: dict[int, torch.Tensor] = {}
    calls = itertools.count()

    def call() -> torch.Tensor:
        return kept.setdefault(next(calls) % 4, torch.zeros(3)) + 1

    assert left_behind(call, CPU, few=10, many=50) == {}


@pytest.mark.gpu
def test_what_leaks_on_the_device_is_found() -> None:
    kept = []
    device = torch.device("cuda", torch.cuda.current_device())
    found = left_behind(lambda: kept.append(torch.zeros(256, device=device)), device, many=110)
    assert found["live tensors"] == 10
    assert found["allocated"] == 10 * 1024


def test_a_hundred_calls_leave_nothing(torch_rng: torch.Generator) -> None:
    images = images_of(5, torch_rng, "cpu")
    sign = SignTransform(tiny_cnn().eval(), 2, step_size=2000.0, batch_size=3)
    assert left_behind(lambda: sign.transform(images), CPU, few=40, many=40 + 5 * A_TURN) == {}


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["autograd", "graphed", "fused"])
def test_a_thousand_calls_leave_nothing(backend: str, torch_rng: torch.Generator) -> None:
    images = images_of(5, torch_rng, "cuda")
    model = tiny_cnn().cuda().eval()
    sign = SignTransform(model, 2, step_size=2000.0, batch_size=3, backend=backend)
    many = 100 + 50 * A_TURN
    assert left_behind(lambda: sign.transform(images), images.device, many=many) == {}


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["graphed", "fused"])
def test_graphs_thrown_away_leave_nothing(backend: str, torch_rng: torch.Generator) -> None:
    """More batch shapes than are kept: each call records again."""
    model = tiny_cnn().cuda().eval()
    sign = SignTransform(model, 2, step_size=2000.0, backend=backend)
    batches = [images_of(count, torch_rng, "cuda") for count in range(1, 7)]

    def call() -> None:
        for images in batches:
            sign.transform(images)

    found = left_behind(call, batches[0].device, few=5, many=5 + 2 * A_TURN, trimmed=True)
    assert found == {}


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["graphed", "fused"])
def test_transforms_thrown_away_leave_nothing(backend: str, torch_rng: torch.Generator) -> None:
    images = images_of(5, torch_rng, "cuda")
    model = tiny_cnn().cuda().eval()

    def call() -> None:
        iterative_sign(model, images, 2, step_size=2000.0, backend=backend)

    assert left_behind(call, images.device, few=10, many=10 + 3 * A_TURN, trimmed=True) == {}
