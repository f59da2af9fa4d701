"""Rules for shrinking and threshold activations, and for gated linear units."""

from __future__ import annotations

from sign_ext.compiler.builder import Builder
from sign_ext.compiler.ir.elementwise import Elementwise
from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.ir.pointwise import Multiply
from sign_ext.compiler.ir.shaping import Slice
from sign_ext.compiler.lower import lowers
from sign_ext.compiler.refs import Ref
from sign_ext.compiler.rules.pointwise import leaky_relu, sigmoid
from sign_ext.errors import UnsupportedOperation


@lowers("sign.default", elementwise=True)
def sign(builder: Builder, shape: Shape, x: Ref) -> Ref:
    """The sign, whose derivative is 0."""
    return builder.add(Elementwise, (x,), shape, function="sign")


@lowers("softshrink.default", elementwise=True)
def softshrink(builder: Builder, shape: Shape, x: Ref, bound: float = 0.5) -> Ref:
    """x moved towards 0 by a bound, and 0 within it."""
    return builder.add(Elementwise, (x,), shape, function="softshrink", parameters=(bound,))


@lowers("hardshrink.default", elementwise=True)
def hardshrink(builder: Builder, shape: Shape, x: Ref, bound: float = 0.5) -> Ref:
    """x, and 0 within a bound."""
    return builder.add(Elementwise, (x,), shape, function="hardshrink", parameters=(bound,))


@lowers("threshold.default", elementwise=True)
def threshold(builder: Builder, shape: Shape, x: Ref, bound: float, value: float) -> Ref:
    """x above a bound, a constant elsewhere."""
    return builder.add(Elementwise, (x,), shape, function="threshold", parameters=(bound, value))


@lowers("rrelu.default", elementwise=True)
def rrelu(
    builder: Builder,
    shape: Shape,
    x: Ref,
    low: float = 1 / 8,
    high: float = 1 / 3,
    training: bool = False,
) -> Ref:
    """A leaky ReLU with the mean slope."""
    if training:
        raise UnsupportedOperation("it draws slopes in evaluation mode")
    return leaky_relu(builder, shape, x, (low + high) / 2)


@lowers("glu.default")
def glu(builder: Builder, shape: Shape, x: Ref, dim: int = -1) -> Ref:
    """The first half times the sigmoid of the second."""
    dim %= len(x.shape) + 1
    if dim == 0:
        raise UnsupportedOperation("images gate images")
    size = x.shape[dim - 1] // 2
    value = builder.add(Slice, (x,), shape, dim=dim, start=0, stop=size)
    gate = builder.add(Slice, (x,), shape, dim=dim, start=size, stop=2 * size)
    return builder.add(Multiply, (value, sigmoid(builder, shape, gate)), shape)
