"""What the tests of sign_update_ share: its formula in float64 numpy, and problems to solve."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

DELTA_TYPES = [torch.float32, torch.bfloat16, torch.float16]
# Every way of laying out four dimensions without gaps, contiguous and channels_last among them.
ORDERS = list(itertools.permutations(range(4)))


def formula(
    p: Tensor,
    delta: Tensor,
    velocity: Tensor | None,
    step_size: float = 1.0,
    momentum: float = 0.0,
    clamp_min: float | None = None,
    clamp_max: float | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """The new p and v, computed in float64 by numpy."""
    wide_p, wide_delta = (x.detach().cpu().double().numpy() for x in (p, delta))
    v = None
    if velocity is not None:
        v = momentum * velocity.detach().cpu().double().numpy() + wide_delta
    moved = wide_p + step_size * (wide_delta if v is None else v)
    if clamp_min is not None:
        moved = np.maximum(moved, clamp_min)  # numpy's maximum keeps NaN too
    if clamp_max is not None:
        moved = np.minimum(moved, clamp_max)
    return moved, v


def laid_out(shape: tuple[int, ...], order: tuple[int, ...], offset: int) -> Tensor:
    """A dense tensor whose dimensions lie in memory in this order, starting at element `offset`."""
    storage = torch.empty(offset + int(np.prod(shape)))
    dense = storage[offset:].view([shape[d] for d in order])
    return dense.permute([order.index(d) for d in range(len(order))])


def assert_matches(
    update: Any, p: Tensor, delta: Tensor, velocity: Tensor | None, **options: Any
) -> None:
    """Run `update` in place and compare with the formula; delta must stay as it was."""
    expected_p, expected_v = formula(p, delta, velocity, **options)
    delta_before = delta.clone()
    assert update(p, delta, velocity, **options) is None
    wide = p.dtype == torch.float64
    close = {"rtol": 1e-12 if wide else 4e-7, "atol": 1e-10 if wide else 2e-4}
    np.testing.assert_allclose(p.cpu().double().numpy(), expected_p, **close)
    if velocity is not None:
        assert expected_v is not None
        np.testing.assert_allclose(velocity.cpu().double().numpy(), expected_v, **close)
    assert torch.equal(delta, delta_before)


def check_the_report(update: Any, device: str, delta_dtype: torch.dtype) -> None:
    """The watch keeps what is larger and every NaN, before the clamp; steps are counted by hand."""
    nan, inf = float("nan"), float("inf")
    p = torch.zeros(3, 5, 7, device=device)
    watch = torch.tensor([2.0, 0.5], device=device)
    counts = torch.tensor([4, 2**31 - 1, 0], dtype=torch.int32, device=device)

    def step(value: float, at: tuple[int, int, int]) -> tuple[list[float], list[int]]:
        delta = torch.zeros(p.shape, device=device, dtype=delta_dtype)
        delta[at] = value
        options = {"step_size": 0.25, "clamp_min": -1.0, "clamp_max": 1.0}
        update(p, delta, watch=watch, counts=counts, **options)
        return watch.tolist(), counts.tolist()

    never = 2**31 - 1
    assert step(-1.5, (2, 4, 6)) == ([2.0, 0.5], [5, never, 0])
    assert step(-16.0, (0, 0, 0)) == ([16.0, 4.0], [6, never, 0])
    assert p[0, 0, 0] == -1.0
    assert step(4.0, (1, 2, 3)) == ([16.0, 4.0], [7, never, 0])
    assert step(inf, (2, 4, 5)) == ([inf, inf], [8, 8, 0])  # hidden in p by the clamp
    assert bool(p.isfinite().all())
    seen, counted = step(nan, (0, 1, 1))
    assert all(value != value for value in seen)
    assert counted == [9, 8, 0]
    step(0.0, (0, 0, 0))
    assert all(value != value for value in watch.tolist())
    assert counts.tolist() == [10, 8, 0]


def check_the_watch(
    update: Any, p: Tensor, delta: Tensor, velocity: Tensor | None, **options: Any
) -> None:
    """Its two maxima by numpy, whatever is left out, and one step is counted."""
    watch = torch.zeros(2, dtype=p.dtype, device=p.device)
    counts = torch.tensor([0, 2**31 - 1, 0], dtype=torch.int32, device=p.device)
    unclamped = {name: value for name, value in options.items() if "clamp" not in name}
    moved, _ = formula(p, delta, velocity, **unclamped)
    largest = [float(delta.abs().max()), float(np.abs(moved).max())]
    update(p, delta, velocity, watch=watch, counts=counts, **options)
    np.testing.assert_allclose(watch.tolist(), largest, rtol=1e-6)
    assert counts.tolist() == [1, 2**31 - 1, 0]


def problem(
    torch_rng: torch.Generator,
    shape: tuple[int, ...] = (3, 3, 5, 7),
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels in 0–255 and gradients and velocities of some grey levels."""
    p = torch.rand(shape, generator=torch_rng) * 255
    delta, velocity = (torch.randn(shape, generator=torch_rng) * 20 for _ in range(2))
    return p.to(device), delta.to(device, dtype), velocity.to(device)
