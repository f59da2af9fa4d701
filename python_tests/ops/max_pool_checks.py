"""What the tests of max_pool and max_pool_backward share on every device."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pool_windows import POOL_TOLERANCE, Window, assert_cotangent
from tensors import assert_native_route, normal, poisoned, random_mask, times_derivative

from sign_ext.ops.activate import pack_mask
from sign_ext.ops.activation import IDENTITY, RELU, RELU6, Piecewise, mask_shape
from sign_ext.ops.max_pool import (
    index_bits,
    index_shape,
    max_pool,
    max_pool_backward,
    pack_index,
    unpack_index,
)

ACTIVATIONS = [IDENTITY, RELU, RELU6, Piecewise(slope=0.1), Piecewise(-0.303, 0.707)]


def check_max_pool(
    generator: torch.Generator,
    shape: tuple[int, ...],
    window: Window,
    dtype: torch.dtype,
    activation: Piecewise,
    *,
    bias: bool = True,
    mask: bool = True,
    nan: bool = True,
    run: Callable[..., None] = max_pool,
    device: str = "cpu",
) -> None:
    """Pool and compare with torch's own pooling in float64 on the CPU, and the bits with y.

    Args:
        generator: draws the problem, on the CPU.
        shape: x's shape.
        window: which windows.
        dtype: of x.
        activation: the activation.
        bias: whether there is one.
        mask: whether there is one.
        nan: whether some values are NaN.
        run: the operator, or its reference.
        device: where it runs.
    """
    x = normal(generator, shape, dtype, device)
    # Values that tie, and windows that are all -inf.
    x.copy_((x * 2).round() / 2)
    drawn = torch.rand(shape, generator=generator).to(device)
    x[drawn < 0.2] = -math.inf
    if nan:
        x[drawn > 0.97] = math.nan
    offset = torch.randn(shape[1], generator=generator) if bias else None

    value, position = window.max_pool(x.cpu().double())
    wide = value if offset is None else value + offset.double()[:, None, None]
    expected = activation.apply(wide)

    y = poisoned(tuple(value.shape), dtype, device)
    index = poisoned(index_shape(y.shape, window.kernel), torch.uint8, device)
    bits = poisoned(mask_shape(y.shape), torch.uint8, device) if mask else None
    if run is max_pool:
        assert_native_route(x, device)
    run(
        x,
        y,
        index,
        **window.options,
        bias=None if offset is None else offset.to(device),
        activation=activation,
        mask=bits,
    )
    tolerance = POOL_TOLERANCE[dtype]
    torch.testing.assert_close(
        y.cpu().double(), expected, rtol=tolerance, atol=tolerance, equal_nan=True
    )
    assert torch.equal(unpack_index(index, y.shape).cpu(), position)
    rest = shape[1] % 8
    if rest:  # zeros after the last channel
        last = index[:, -1].cpu().long() << 8 * torch.arange(index.shape[2])
        low = torch.full_like(last.sum(1), (1 << rest * index.shape[2]) - 1)
        assert not (last.sum(1) & ~low).any()
    if bits is not None:
        again = torch.empty_like(bits)
        pack_mask.reference(y, again, activation)
        assert torch.equal(bits, again)


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
        mask = random_mask(generator, tuple(value.shape), device)
        if slope == 0.0:  # a blocked cotangent is 0 whatever it was
            blocked = times_derivative(torch.ones_like(value), mask, 0.0) == 0
            g[blocked.to(device) & (g > 1.5)] = math.nan
    if x_slope is not None:
        x_mask = random_mask(generator, shape, device)

    wide = times_derivative(g.cpu().double().nan_to_num(0.0), mask, slope or 0.0)
    (expected,) = torch.autograd.grad(value, x, wide)
    out = poisoned(shape, dtype, device)
    added = None
    if other != "none":
        added = normal(generator, shape, dtype, device)
        expected = expected + added.cpu().double()
        if other == "out":
            out.copy_(added)
            added = out
    expected = times_derivative(expected, x_mask, x_slope or 0.0)

    if run is max_pool_backward:
        assert_native_route(g, device)
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
