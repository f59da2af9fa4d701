"""What the tests of average_pool_backward share on every device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from max_pool_backward_checks import assert_cotangent
from pool_windows import Window, behind_bits, normal, poisoned, random_mask
from torch.nn import functional as F

from sign_ext.ops import native
from sign_ext.ops.activation import mask_shape
from sign_ext.ops.average_pool_backward import average_pool_backward
from sign_ext.ops.native import route


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
        x_mask = random_mask(generator, mask_shape(shape), device)
    out = poisoned(shape, dtype, device)
    added = None
    if other != "none":
        added = normal(generator, shape, dtype, device)
        expected = expected + added.cpu().double()
        if other == "out":
            out.copy_(added)
            added = out
    expected = behind_bits(expected, x_mask, x_slope or 0.0)

    if run is average_pool_backward and native.NATIVE.loaded and dtype != torch.float64:
        assert route(g) == f"native-{device}"
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
