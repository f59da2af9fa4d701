"""What the tests of average_pool_backward share on every device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pool_windows import Window, assert_cotangent
from tensors import assert_native_route, normal, poisoned, random_mask, times_derivative
from torch.nn import functional as F

from sign_ext.ops.average_pool_backward import average_pool_backward


def check_average_pool_backward(
    generator: torch.Generator,
    shape: tuple[int, ...],
    window: Window,
    dtype: torch.dtype,
    *,
    count_include_pad: bool = True,
    divisor: int | None = None,
    other: str = "none",
    x_slope: float | None = None,
    run: Callable[..., None] = average_pool_backward,
    device: str = "cpu",
) -> None:
    """Run backward and compare with autograd of torch's own pooling in float64.

    Args:
        generator: draws the problem, on the CPU.
        shape: of the pooling's input.
        window: which windows, not dilated.
        dtype: of the cotangents.
        count_include_pad: whether the divisor counts the padding.
        divisor: what is divided by instead.
        other: "none", "apart" or "out": what the other branch's cotangent is.
        x_slope: of the activation that made x, or None for no mask.
        run: the operator, or its reference.
        device: where it runs.
    """
    x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    value = F.avg_pool2d(
        x,
        window.kernel,
        window.stride,
        window.padding,
        window.ceil_mode,
        count_include_pad,
        divisor,
    )
    g = normal(generator, tuple(value.shape), dtype, device)
    (expected,) = torch.autograd.grad(value, x, g.cpu().double())
    x_mask = None
    if x_slope is not None:
        x_mask = random_mask(generator, shape, device)
    out = poisoned(shape, dtype, device)
    added = None
    if other != "none":
        added = normal(generator, shape, dtype, device)
        expected = expected + added.cpu().double()
        if other == "out":
            out.copy_(added)
            added = out
    expected = times_derivative(expected, x_mask, x_slope or 0.0)

    if run is average_pool_backward:
        assert_native_route(g, device)
    run(
        g,
        out,
        kernel=window.kernel,
        stride=window.stride,
        padding=window.padding,
        count_include_pad=count_include_pad,
        divisor=divisor,
        other=added,
        x_mask=x_mask,
        x_slope=x_slope or 0.0,
    )
    assert_cotangent(out, expected, 4.0)
