"""What the tests of depthwise and depthwise_backward share on every device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from tensors import TOLERANCE, assert_native_route, normal, poisoned, random_mask
from torch import Tensor
from torch.nn import functional as F

from sign_ext.ops.activate import pack_mask
from sign_ext.ops.activation import IDENTITY, Piecewise, mask_shape, unpack_bits
from sign_ext.ops.depthwise import depthwise, depthwise_backward
from sign_ext.ops.layout import Pair


class Convolution(NamedTuple):
    """The geometry of a depthwise convolution; padding is (before, after) each axis."""

    kernel: Pair
    stride: Pair = (1, 1)
    down: Pair = (0, 0)
    across: Pair = (0, 0)
    dilation: Pair = (1, 1)

    @property
    def options(self) -> dict[str, Pair]:
        """The operators' options."""
        padding = (self.down[0], self.across[0])
        return {"stride": self.stride, "padding": padding, "dilation": self.dilation}

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether there is room for a window, and none begins after the image."""
        for size, kernel, dilation, pads in zip(
            shape[2:], self.kernel, self.dilation, (self.down, self.across), strict=True
        ):
            reach = dilation * (kernel - 1)
            if size + sum(pads) <= reach or pads[0] > reach or pads[1] > reach:
                return False
        return True

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The value by torch's own convolution of a padded image."""
        padded = F.pad(x, (*self.across, *self.down))
        filters = weight.permute(2, 0, 1)[:, None]
        return F.conv2d(
            padded, filters, bias, self.stride, dilation=self.dilation, groups=x.shape[1]
        )


def same(side: int, stride: int = 1) -> Convolution:
    """A square kernel with half a window of padding."""
    half = (side // 2, side // 2)
    return Convolution((side, side), (stride, stride), half, half)


CONVOLUTIONS = [
    *(same(side, stride) for side in (3, 5, 7) for stride in (1, 2)),
    Convolution((3, 3), (2, 2), (0, 1), (0, 1)),  # as TensorFlow pads
    Convolution((5, 5), (2, 2), (1, 2), (2, 1)),
    Convolution((7, 7)),
    Convolution((1, 1)),
    Convolution((3, 5), (1, 2), (1, 1), (0, 4)),
    Convolution((3, 3), (1, 1), (2, 2), (2, 2), (2, 2)),
    Convolution((4, 2), (3, 1), (1, 3), (1, 0), (1, 3)),
]
shapes = st.tuples(
    st.integers(1, 3), st.integers(1, 70), st.integers(1, 10), st.integers(1, 20)
) | st.tuples(st.integers(1, 2), st.integers(60, 300), st.integers(1, 5), st.integers(1, 5))


@st.composite
def convolutions(draw: Callable[..., Any]) -> Convolution:
    """Any geometry, half of them those that have kernels of their own."""
    if draw(st.booleans()):
        side, stride = draw(st.sampled_from([3, 5, 7])), draw(st.sampled_from([1, 2]))
        kernel, strides, dilation = (side, side), (stride, stride), (1, 1)
    else:
        few = st.tuples(st.integers(1, 5), st.integers(1, 5))
        kernel, strides, dilation = draw(few), draw(few), draw(few)
    down, across = (
        (draw(st.integers(0, reach)), draw(st.integers(0, reach)))
        for reach in ((k - 1) * d for k, d in zip(kernel, dilation, strict=True))
    )
    return Convolution(kernel, strides, down, across, dilation)


def assert_close(out: Tensor, expected: Tensor, convolution: Convolution) -> None:
    """Compare with float64: rounded once, and a sum of a window's products before."""
    tolerance = TOLERANCE[out.dtype]
    summed = 4 * TOLERANCE[torch.float32] * math.prod(convolution.kernel) ** 0.5
    torch.testing.assert_close(
        out.cpu().double(), expected.cpu(), rtol=tolerance, atol=summed, equal_nan=True
    )


def check_depthwise(
    generator: torch.Generator,
    shape: tuple[int, ...],
    convolution: Convolution,
    dtype: torch.dtype,
    *,
    activation: Piecewise = IDENTITY,
    bias: bool = True,
    mask: bool = True,
    run: Callable[..., None] = depthwise,
    device: str = "cpu",
) -> None:
    """Run the operator and compare with torch's convolution in float64, and bits with values.

    Args:
        generator: draws the problem, on the CPU.
        shape: x's shape.
        convolution: which one.
        dtype: of x and out.
        activation: the activation.
        bias: whether there is one.
        mask: whether there is one.
        run: the operator, or its reference.
        device: where it runs.
    """
    x = normal(generator, shape, dtype, device)
    x[torch.rand(shape, generator=generator).to(device) < 1e-3] = math.nan
    weight = torch.randn(*convolution.kernel, shape[1], generator=generator)
    constant = torch.randn(shape[1], generator=generator) if bias else None
    value = convolution.convolve(
        x.cpu().double(), weight.double(), None if constant is None else constant.double()
    )
    out = poisoned(tuple(value.shape), dtype, device)
    bits = poisoned(mask_shape(out.shape), torch.uint8, device) if mask else None
    before = x.clone()
    if run is depthwise:
        assert_native_route(x, device)
    run(
        x,
        weight.to(device),
        out,
        bias=None if constant is None else constant.to(device),
        activation=activation,
        mask=bits,
        **convolution.options,
    )
    assert_close(out, activation.apply(value), convolution)
    torch.testing.assert_close(x, before, rtol=0, atol=0, equal_nan=True)
    if bits is not None:
        again = torch.empty_like(bits)
        pack_mask.reference(out, again, activation)
        assert torch.equal(bits, again)


def check_depthwise_backward(
    generator: torch.Generator,
    shape: tuple[int, ...],
    convolution: Convolution,
    dtype: torch.dtype,
    *,
    slope: float | None = 0.0,
    other: str = "none",
    x_slope: float | None = None,
    run: Callable[..., None] = depthwise_backward,
    device: str = "cpu",
) -> None:
    """Run the operator and compare with autograd of torch's convolution in float64.

    Args:
        generator: draws the problem, on the CPU.
        shape: of the convolution's input.
        convolution: which one.
        dtype: of the cotangents.
        slope: of the convolution's own activation, or None for no mask.
        other: "none", "apart" or "out": what the other branch's cotangent is.
        x_slope: of the activation that made x, or None for no mask.
        run: the operator, or its reference.
        device: where it runs.
    """
    x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(*convolution.kernel, shape[1], generator=generator)
    value = convolution.convolve(x, weight.double())
    g = normal(generator, tuple(value.shape), dtype, "cpu")
    wide, mask, x_mask = g.double(), None, None
    if slope is not None:
        mask = random_mask(generator, tuple(value.shape), device)
        bits = unpack_bits(mask.cpu(), value.shape)
        wide = Piecewise(slope=slope).pull_back(wide, bits)
        if slope == 0.0:  # a blocked cotangent is 0 whatever it was
            g[~bits & (g > 1.5)] = math.nan
    (expected,) = torch.autograd.grad(value, x, wide)
    out, added = poisoned(shape, dtype, device), None
    if other != "none":
        added = normal(generator, shape, dtype, device)
        expected = expected + added.cpu().double()
        if other == "out":
            added = out.copy_(added)
    if x_slope is not None:
        x_mask = random_mask(generator, shape, device)
        expected = Piecewise(slope=x_slope).pull_back(expected, unpack_bits(x_mask.cpu(), shape))

    g = g.to(device)
    if run is depthwise_backward:
        assert_native_route(g, device)
    run(
        g,
        weight.to(device),
        out,
        mask=mask,
        slope=slope or 0.0,
        other=added,
        x_mask=x_mask,
        x_slope=x_slope or 0.0,
        **convolution.options,
    )
    assert_close(out, expected, convolution)
