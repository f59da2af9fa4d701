"""What the tests of sign_update_ share: its formula in float64 numpy, and problems to solve."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sign_ext.ops import native

needs_native = pytest.mark.skipif(
    not native.NATIVE.loaded, reason=f"no extension: {native.NATIVE.why}"
)
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
    """A dense tensor whose dimensions lie in memory in this order, `offset` elements behind."""
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
