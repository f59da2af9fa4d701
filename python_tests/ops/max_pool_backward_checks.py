"""What the tests of max_pool_backward share on every device."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pool_windows import Window, behind_bits, normal, poisoned, random_mask
from torch import Tensor

from sign_ext.ops import native
from sign_ext.ops.activation import mask_shape
from sign_ext.ops.max_pool import index_bits, max_pool_backward, pack_index
from sign_ext.ops.native import route

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float64: 1e-12}


def assert_cotangent(out: Tensor, expected: Tensor, size: float) -> None:
    """Compare with a cotangent in float64.

    Args:
        out: what was written.
        expected: float64, on the CPU.
        size: of the numbers that were added up.
    """
    tolerance = TOLERANCE[out.dtype]
    torch.testing.assert_close(
        out.cpu().double(), expected, rtol=tolerance, atol=tolerance * size, equal_nan=True
    )


def check_max_pool_backward(
    generator: torch.Generator,
    shape: tuple[int, ...],
    window: Window,
    dtype: torch.dtype,
    *,
    slope: float | None = 0.0,
    other: str = "none",
    x_slope: float | None = None,
    run: Callable[..., None] = max_pool_backward,
    device: str = "cpu",
) -> None:
    """Run backward and compare with autograd of torch's own pooling in float64.

    Args:
        generator: draws the problem, on the CPU.
        shape: of the pooling's input.
        window: which windows.
        dtype: of the cotangents.
        slope: of the pooling's own activation, or None for no mask.
        other: "none", "apart" or "out": what the other branch's cotangent is.
        x_slope: of the activation that made x, or None for no mask.
        run: the operator, or its reference.
        device: where it runs.
    """
    x = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    value, position = window.max_pool(x)
    index = pack_index(position, index_bits(window.kernel)).to(device)
    g = normal(generator, tuple(value.shape), dtype, device)
    mask = x_mask = None
    if slope is not None:
        mask = random_mask(generator, mask_shape(value.shape), device)
        if slope == 0.0:  # a blocked cotangent is 0 whatever it was
            blocked = behind_bits(torch.ones_like(value), mask, 0.0) == 0
            g[blocked.to(device) & (g > 1.5)] = math.nan
    if x_slope is not None:
        x_mask = random_mask(generator, mask_shape(shape), device)

    wide = behind_bits(g.cpu().double().nan_to_num(0.0), mask, slope or 0.0)
    (expected,) = torch.autograd.grad(value, x, wide)
    out = poisoned(shape, dtype, device)
    added = None
    if other != "none":
        added = normal(generator, shape, dtype, device)
        expected = expected + added.cpu().double()
        if other == "out":
            out.copy_(added)
            added = out
    expected = behind_bits(expected, x_mask, x_slope or 0.0)

    if run is max_pool_backward and native.NATIVE.loaded and dtype != torch.float64:
        assert route(g) == f"native-{device}"
    run(
        g,
        index,
        out,
        **window.options,
        mask=mask,
        slope=slope or 0.0,
        other=added,
        x_mask=x_mask,
        x_slope=x_slope or 0.0,
    )
    assert_cotangent(out, expected, 16.0)
