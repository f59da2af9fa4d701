"""The share of a call that does not grow, of calls whose times are known."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sign_ext.benchmarking import fixed_share as module
from sign_ext.benchmarking.fixed_share import fixed_share, fixed_shares
from sign_ext.benchmarking.task import Task

FIXED, STEP = 0.5, 0.01  # seconds of a call, and of each of its steps and images


@pytest.mark.parametrize("size", [1, 3, 40])
@pytest.mark.parametrize("other", [2, 7])
@pytest.mark.parametrize(("fixed", "each"), [(0.0, 0.2), (3.0, 0.5), (1.0, 0.0)])
def test_a_line_through_two_times(size: int, other: int, fixed: float, each: float) -> None:
    times = (fixed + each * size, fixed + each * other)
    found = fixed_share("--steps", (size, other), times)
    assert found.share == pytest.approx(fixed / times[0])
    assert found.size == size
    assert found.enough >= size
    if each:
        assert fixed / (fixed + each * found.enough) <= 0.1 + 1e-9
        fewer = found.enough - 1
        assert fewer < size or fixed / (fixed + each * fewer) > 0.1 - 1e-9


@pytest.fixture
def known_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call of a backend takes FIXED and STEP for each image and step."""
    clock = {"now": 0.0}

    def ours(task: Task, backend: str) -> object:
        def run(images: Tensor) -> Tensor:
            assert len(images) == len(task.images)
            clock["now"] += FIXED + STEP * len(images) * task.steps
            return images

        return run

    monkeypatch.setattr(module, "ours", ours)
    monkeypatch.setattr(time, "perf_counter", lambda: clock["now"])


@pytest.mark.usefixtures("known_times")
def test_few_steps_and_few_images_are_named_with_what_is_enough(task: Task) -> None:
    found = {each.option: each for each in fixed_shares(task, "fused", steps=100, images=128)}
    # 5 images, 2 steps: 0.5 s of 0.6 s, whichever of them grows.
    for option, size, each in (("--steps", 2, 5 * STEP), ("--images", 5, 2 * STEP)):
        assert found[option].size == size
        assert found[option].share == pytest.approx(FIXED / 0.6)
        assert FIXED / (FIXED + each * found[option].enough) <= 0.1 + 1e-9 or (
            found[option].enough == 128
        )
    assert str(found["--steps"]).startswith("--steps 2 is too small for a forecast: 83% of")
    one = replace(task, images=task.images[:1], steps=1)
    both = fixed_shares(one, "fused", steps=30, images=20)
    assert [(each.size, each.enough) for each in both] == [(1, 20), (1, 30)]  # the set's own


@pytest.mark.usefixtures("known_times")
def test_enough_and_what_the_set_itself_has_are_no_reason(task: Task) -> None:
    assert fixed_shares(task, "fused", steps=2, images=5) == []
    large = replace(task, images=torch.zeros(60, 3, 8, 9), steps=10)  # 0.5 s of 6.5 s
    assert fixed_shares(large, "fused", steps=100, images=128) == []
