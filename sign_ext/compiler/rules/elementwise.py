"""Rules for functions of single elements."""

from __future__ import annotations

import math
from typing import Any

from sign_ext.compiler.builder import Builder
from sign_ext.compiler.ir.elementwise import Elementwise
from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.lower import lowers
from sign_ext.compiler.refs import Ref
from sign_ext.errors import UnsupportedOperation


def _function(name: str) -> None:
    """A rule for a function without parameters."""

    def rule(builder: Builder, shape: Shape, x: Ref) -> Ref:
        return builder.add(Elementwise, (x,), shape, function=name)

    rule.__doc__ = f"aten.{name}."
    lowers(f"{name}.default", elementwise=True)(rule)


for _name in (
    *("sqrt", "rsqrt", "exp", "expm1", "log", "log1p", "abs", "reciprocal", "sin", "cos", "erf"),
    *("exp2", "log2", "log10", "atan", "asin", "acos", "sinh", "cosh", "asinh", "erfc"),
    *("floor", "ceil", "trunc", "detach", "log_sigmoid"),
):
    _function(_name)


@lowers("square.default", elementwise=True)
def square(builder: Builder, shape: Shape, x: Ref) -> Ref:
    """x²."""
    return builder.add(Elementwise, (x,), shape, function="pow", parameters=(2.0,))


@lowers("pow.Tensor_Scalar", elementwise=True)
def power(builder: Builder, shape: Shape, x: Ref, exponent: float) -> Ref:
    """x to the power of a number."""
    return builder.add(Elementwise, (x,), shape, function="pow", parameters=(float(exponent),))


@lowers("round.default", elementwise=True)
def round_to_integers(builder: Builder, shape: Shape, x: Ref) -> Ref:
    """The nearest integer, whose derivative is 0."""
    return builder.add(Elementwise, (x,), shape, function="round")


@lowers("pow.Scalar", elementwise=True)
def exponential(builder: Builder, shape: Shape, base: float, x: Ref) -> Ref:
    """A number to the power of x."""
    if base <= 0:
        raise UnsupportedOperation("powers of a number that is not positive")
    return builder.add(Elementwise, (x,), shape, function="exponential", parameters=(float(base),))


@lowers("remainder.Scalar", elementwise=True)
def remainder(builder: Builder, shape: Shape, x: Ref, divisor: float) -> Ref:
    """What division by a number leaves, with the divisor's sign."""
    return builder.add(Elementwise, (x,), shape, function="remainder", parameters=(divisor,))


@lowers("fmod.Scalar", elementwise=True)
def fmod(builder: Builder, shape: Shape, x: Ref, divisor: float) -> Ref:
    """What division by a number leaves, with the sign of x."""
    return builder.add(Elementwise, (x,), shape, function="fmod", parameters=(divisor,))


@lowers("clamp.default", "clamp_min.default", elementwise=True)
def clamp(
    builder: Builder, shape: Shape, x: Ref, low: Any = None, high: Any = None, **named: Any
) -> Ref:
    """x within bounds, where PyTorch passes the cotangent at the bounds too."""
    low, high = named.get("min", low), named.get("max", high)
    if isinstance(low, Ref) or isinstance(high, Ref):
        raise UnsupportedOperation("its bounds depend on the images")
    bounds = (-math.inf if low is None else float(low), math.inf if high is None else float(high))
    return builder.add(Elementwise, (x,), shape, function="clamp", parameters=bounds)


@lowers("clamp_max.default", elementwise=True)
def clamp_max(builder: Builder, shape: Shape, x: Ref, high: Any) -> Ref:
    """The smaller of x and a bound."""
    return clamp(builder, shape, x, None, high)
