"""The rules of `lower` for activations."""

from __future__ import annotations

from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.ir.pointwise import Pointwise, Smooth
from sign_ext.compiler.lower import Builder, Ref, rule
from sign_ext.errors import UnsupportedOperation
from sign_ext.ops.activation import RELU, RELU6, Piecewise


def activation(to: Builder, x: Ref, what: Piecewise) -> Ref:
    """A lone piecewise linear activation."""
    return to.add(Pointwise, (x,), x.shape, activation=what)


@rule("relu.default")
def relu(to: Builder, shape: Shape, x: Ref) -> Ref:
    """max(x, 0)."""
    return activation(to, x, RELU)


@rule("relu6.default")
def relu6(to: Builder, shape: Shape, x: Ref) -> Ref:
    """min(max(x, 0), 6)."""
    return activation(to, x, RELU6)


@rule("hardtanh.default")
def hardtanh(to: Builder, shape: Shape, x: Ref, low: float = -1.0, high: float = 1.0) -> Ref:
    """clamp(x, low, high), whose derivative at the bounds is 0."""
    return activation(to, x, Piecewise(float(low), float(high)))


@rule("leaky_relu.default")
def leaky_relu(to: Builder, shape: Shape, x: Ref, slope: float = 0.01) -> Ref:
    """x > 0 ? x : slope · x."""
    if slope < 0:
        # The output's sign no longer tells the input's.
        raise UnsupportedOperation("a negative slope")
    return activation(to, x, Piecewise(slope=float(slope)) if slope else RELU)


@rule("silu.default")
def silu(to: Builder, shape: Shape, x: Ref) -> Ref:
    """x · sigmoid(x)."""
    return to.add(Smooth, (x,), shape, function="silu")


@rule("gelu.default")
def gelu(to: Builder, shape: Shape, x: Ref, approximate: str = "none") -> Ref:
    """GELU, exact or by tanh."""
    return to.add(Smooth, (x,), shape, function="gelu" if approximate == "none" else "gelu_tanh")


@rule("sigmoid.default")
def sigmoid(to: Builder, shape: Shape, x: Ref) -> Ref:
    """1 / (1 + e⁻ˣ)."""
    return to.add(Smooth, (x,), shape, function="sigmoid")


@rule("tanh.default")
def tanh(to: Builder, shape: Shape, x: Ref) -> Ref:
    """The hyperbolic tangent."""
    return to.add(Smooth, (x,), shape, function="tanh")


@rule("hardswish.default")
def hardswish(to: Builder, shape: Shape, x: Ref) -> Ref:
    """x · relu6(x + 3) / 6."""
    return to.add(Smooth, (x,), shape, function="hardswish")


@rule("hardsigmoid.default")
def hardsigmoid(to: Builder, shape: Shape, x: Ref) -> Ref:
    """relu6(x + 3) / 6."""
    return to.add(Smooth, (x,), shape, function="hardsigmoid")


@rule("mish.default")
def mish(to: Builder, shape: Shape, x: Ref) -> Ref:
    """x · tanh(softplus(x))."""
    return to.add(Smooth, (x,), shape, function="mish")


@rule("elu.default")
def elu(
    to: Builder, shape: Shape, x: Ref, alpha: float = 1, scale: float = 1, input_scale: float = 1
) -> Ref:
    """ELU with its default constants."""
    if not alpha == scale == input_scale == 1:
        raise UnsupportedOperation("constants other than 1")
    return to.add(Smooth, (x,), shape, function="elu")


@rule("softplus.default")
def softplus(to: Builder, shape: Shape, x: Ref, beta: float = 1, threshold: float = 20) -> Ref:
    """log(1 + eˣ)."""
    if beta != 1 or threshold != 20:
        raise UnsupportedOperation("beta or threshold other than the default")
    return to.add(Smooth, (x,), shape, function="softplus")
