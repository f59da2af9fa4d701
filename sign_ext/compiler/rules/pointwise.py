"""Rules for elementwise operations: arithmetic, activations, BatchNorm in evaluation mode."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sign_ext.compiler.builder import stored, tokens, with_channels
from sign_ext.compiler.ir.elementwise import Elementwise
from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.ir.pointwise import Multiply, Pointwise, Smooth
from sign_ext.compiler.lower import Builder, Ref, channel_constant, constant, lowers
from sign_ext.compiler.positions import has_channels_first
from sign_ext.errors import UnsupportedOperation
from sign_ext.ops.activation import RELU, RELU6, Piecewise


def _scaled(builder: Builder, x: Any, factor: float) -> Any:
    """factor · x, for a value or a constant."""
    if factor == 1:
        return x
    if not isinstance(x, Ref):
        return x * factor
    scale = torch.full((x.shape[0],), float(factor), dtype=torch.float64)
    return builder.add(Pointwise, (x,), x.shape, scale=scale)


@lowers("add.Tensor", "add.Scalar", elementwise=True)
def add(builder: Builder, shape: Shape, a: Any, b: Any, alpha: float = 1) -> Ref:
    """a + alpha · b."""
    b = _scaled(builder, b, alpha)
    if isinstance(a, Ref) and isinstance(b, Ref):
        if a.shape != b.shape:
            raise UnsupportedOperation(f"shapes {a.shape} and {b.shape} differ")
        return builder.add(Pointwise, (a, b), shape)
    x, other = (a, b) if isinstance(a, Ref) else (b, a)
    if x.shape != shape:
        raise UnsupportedOperation("a constant larger than the value")
    return builder.add(Pointwise, (x,), shape, shift=channel_constant(other, x))


@lowers("sub.Tensor", "sub.Scalar", elementwise=True)
def subtract(builder: Builder, shape: Shape, a: Any, b: Any, alpha: float = 1) -> Ref:
    """a - alpha · b."""
    return add(builder, shape, a, b, -alpha)


@lowers("rsub.Scalar", "rsub.Tensor", elementwise=True)
def reverse_subtract(builder: Builder, shape: Shape, a: Any, b: Any, alpha: float = 1) -> Ref:
    """b - alpha · a."""
    return add(builder, shape, b, a, -alpha)


@lowers("neg.default", elementwise=True)
def negative(builder: Builder, shape: Shape, x: Ref) -> Ref:
    """-x."""
    result: Ref = _scaled(builder, x, -1)
    return result


@lowers("mul.Tensor", "mul.Scalar", elementwise=True)
def multiply(builder: Builder, shape: Shape, a: Any, b: Any) -> Ref:
    """a · b: two values, or a value and a constant."""
    if isinstance(a, Ref) and isinstance(b, Ref):
        if a.shape != shape:
            a, b = b, a
        spread = (*shape[:1], *[1] * (len(shape) - 1))
        if a.shape != shape or b.shape not in (shape, spread):
            raise UnsupportedOperation(f"shapes {a.shape} and {b.shape}")
        return builder.add(Multiply, (a, b), shape)
    x, other = (a, b) if isinstance(a, Ref) else (b, a)
    if x.shape != shape:
        raise UnsupportedOperation("a constant larger than the value")
    return builder.add(Pointwise, (x,), shape, scale=channel_constant(other, x))


@lowers("div.Tensor", "div.Scalar", elementwise=True)
def divide(builder: Builder, shape: Shape, a: Any, b: Any) -> Ref:
    """a / b, b a constant."""
    divisor = constant(b)
    if divisor is None:
        raise UnsupportedOperation("a quotient of values")
    return multiply(builder, shape, a, 1 / divisor.double())


def _activated(builder: Builder, x: Ref, activation: Piecewise) -> Ref:
    """A piecewise linear activation on its own."""
    return builder.add(Pointwise, (x,), x.shape, activation=activation)


@lowers("relu.default", elementwise=True)
def relu(builder: Builder, shape: Shape, x: Ref) -> Ref:
    """max(x, 0)."""
    return _activated(builder, x, RELU)


@lowers("relu6.default", elementwise=True)
def relu6(builder: Builder, shape: Shape, x: Ref) -> Ref:
    """min(max(x, 0), 6)."""
    return _activated(builder, x, RELU6)


@lowers("hardtanh.default", elementwise=True)
def hardtanh(builder: Builder, shape: Shape, x: Ref, low: float = -1.0, high: float = 1.0) -> Ref:
    """clamp(x, low, high), whose derivative at the bounds is 0."""
    return _activated(builder, x, Piecewise(float(low), float(high)))


@lowers("leaky_relu.default", elementwise=True)
def leaky_relu(builder: Builder, shape: Shape, x: Ref, slope: float = 0.01) -> Ref:
    """x > 0 ? x : slope · x."""
    if slope < 0:
        # A bit would be read off the output, whose sign is not the input's.
        return builder.add(Elementwise, (x,), shape, function="leaky_relu", parameters=(slope,))
    return _activated(builder, x, Piecewise(slope=float(slope)) if slope else RELU)


@lowers("silu.default", elementwise=True)
def silu(builder: Builder, shape: Shape, x: Ref) -> Ref:
    """x · sigmoid(x)."""
    return builder.add(Smooth, (x,), shape, function="silu")


@lowers("gelu.default", elementwise=True)
def gelu(builder: Builder, shape: Shape, x: Ref, approximate: str = "none") -> Ref:
    """GELU, exact or by tanh."""
    return builder.add(
        Smooth, (x,), shape, function="gelu" if approximate == "none" else "gelu_tanh"
    )


@lowers("sigmoid.default", elementwise=True)
def sigmoid(builder: Builder, shape: Shape, x: Ref) -> Ref:
    """1 / (1 + e⁻ˣ)."""
    return builder.add(Smooth, (x,), shape, function="sigmoid")


@lowers("tanh.default", elementwise=True)
def tanh(builder: Builder, shape: Shape, x: Ref) -> Ref:
    """The hyperbolic tangent."""
    return builder.add(Smooth, (x,), shape, function="tanh")


@lowers("hardswish.default", elementwise=True)
def hardswish(builder: Builder, shape: Shape, x: Ref) -> Ref:
    """x · relu6(x + 3) / 6."""
    return builder.add(Smooth, (x,), shape, function="hardswish")


@lowers("hardsigmoid.default", elementwise=True)
def hardsigmoid(builder: Builder, shape: Shape, x: Ref) -> Ref:
    """relu6(x + 3) / 6."""
    return builder.add(Smooth, (x,), shape, function="hardsigmoid")


@lowers("mish.default", elementwise=True)
def mish(builder: Builder, shape: Shape, x: Ref) -> Ref:
    """x · tanh(softplus(x))."""
    return builder.add(Smooth, (x,), shape, function="mish")


@lowers("softplus.default", elementwise=True)
def softplus(builder: Builder, shape: Shape, x: Ref, beta: float = 1, threshold: float = 20) -> Ref:
    """log(1 + eˣ)."""
    if beta != 1 or threshold != 20:
        numbers = (float(beta), float(threshold))
        return builder.add(Elementwise, (x,), shape, function="softplus", parameters=numbers)
    return builder.add(Smooth, (x,), shape, function="softplus")


# BatchNorm in evaluation mode is a constant affine map.


def scale_and_shift(
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The affine map of each channel in float64: γ / √(σ² + ε) and β - μ · scale.

    Args:
        weight: γ, None for 1.
        bias: β, None for 0.
        mean: μ, running.
        variance: σ², running.
        training: whether the batch's statistics take their place.
        eps: ε.
    """
    if training or mean is None or variance is None:
        raise UnsupportedOperation("it uses the batch's own statistics")
    scale = (variance.double() + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.double()
    shift = -mean.double() * scale
    if bias is not None:
        shift = shift + bias.double()
    return scale, shift


@lowers("batch_norm.default", views=True)
def batch_norm(
    builder: Builder,
    shape: Shape,
    x: Ref,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Ref:
    """An affine map of each channel."""
    scale, shift = scale_and_shift(weight, bias, mean, variance, training, eps)
    if x.merged:
        # (N · T, C): the channels are the last dimension, as after a linear layer on tokens.
        if len(x.view.shape) != 2:
            raise UnsupportedOperation("the images are merged with another dimension")
        x = tokens(builder, x)
        made = builder.add(Pointwise, (x,), x.shape, scale=scale, shift=shift)
        return with_channels(x, made)
    x = x if has_channels_first(x) else stored(builder, x)
    return builder.add(Pointwise, (x,), x.shape, scale=scale, shift=shift).like(x)
