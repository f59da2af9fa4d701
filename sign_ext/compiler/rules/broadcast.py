"""Rules for arithmetic of shapes that broadcast, where those for equal shapes do not cover it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sign_ext.compiler.builder import Builder
from sign_ext.compiler.ir.broadcast import Broadcast
from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.lower import lowers
from sign_ext.compiler.refs import Ref
from sign_ext.compiler.rules import pointwise
from sign_ext.compiler.rules.viewed import (
    add_alike,
    as_constant,
    of_one_image,
)
from sign_ext.errors import UnsupportedOperation


def of_two(builder: Builder, function: str, a: Any, b: Any) -> Ref:
    """a ∘ b.

    Args:
        builder: the program.
        function: a name in `ir.broadcast.ARITHMETIC`.
        a: a value or a constant.
        b: another, one of the two a value.
    """
    if isinstance(a, Ref) and isinstance(b, Ref):
        if len(a.view.shape) != len(b.view.shape):
            # The images of one would meet another dimension of the other.
            raise UnsupportedOperation(f"values of shapes {a.view.shape} and {b.view.shape}")
        shape = tuple(torch.broadcast_shapes(a.view.shape, b.view.shape))
        return add_alike(builder, Broadcast, [a, b], shape, function=function)
    x, other = (a, b) if isinstance(a, Ref) else (b, a)
    constant = constant_of(builder, other, x)
    shape = tuple(torch.broadcast_shapes(x.view.shape, constant.shape))
    return add_alike(
        builder,
        Broadcast,
        [x],
        shape,
        function=function,
        constant=constant,
        constant_first=x is not a,
    )


def constant_of(builder: Builder, value: Any, x: Ref) -> Tensor:
    """A constant operand that broadcasts with one image of a value.

    Args:
        builder: says how many images were recorded.
        value: a number or a tensor.
        x: the value.
    """
    tensor = as_constant(value)
    dims = max(len(x.view.shape), tensor.dim() - (not x.merged))
    return of_one_image(builder, tensor, dims, x.merged)


@lowers("add.Tensor", "add.Scalar", fallback=True)
def add(builder: Builder, shape: Shape, a: Any, b: Any, alpha: float = 1) -> Ref:
    """a + alpha · b."""
    if alpha == -1:
        return of_two(builder, "sub", a, b)
    if alpha != 1:
        b = of_two(builder, "mul", b, alpha) if isinstance(b, Ref) else as_constant(b) * alpha
    return of_two(builder, "add", a, b)


@lowers("sub.Tensor", "sub.Scalar", fallback=True)
def subtract(builder: Builder, shape: Shape, a: Any, b: Any, alpha: float = 1) -> Ref:
    """a - alpha · b."""
    return add(builder, shape, a, b, -alpha)


@lowers("rsub.Scalar", "rsub.Tensor", fallback=True)
def reverse_subtract(builder: Builder, shape: Shape, a: Any, b: Any, alpha: float = 1) -> Ref:
    """b - alpha · a."""
    return add(builder, shape, b, a, -alpha)


@lowers("mul.Tensor", "mul.Scalar", fallback=True)
def multiply(builder: Builder, shape: Shape, a: Any, b: Any) -> Ref:
    """a · b."""
    return of_two(builder, "mul", a, b)


@lowers("div.Tensor", "div.Scalar", fallback=True)
def divide(builder: Builder, shape: Shape, a: Any, b: Any) -> Ref:
    """a / b."""
    return of_two(builder, "div", a, b)


@lowers("maximum.default", "max.other", fallback=True)
def maximum(builder: Builder, shape: Shape, a: Any, b: Any) -> Ref:
    """The larger of two."""
    return of_two(builder, "maximum", a, b)


@lowers("minimum.default", "min.other", fallback=True)
def minimum(builder: Builder, shape: Shape, a: Any, b: Any) -> Ref:
    """The smaller of two."""
    return of_two(builder, "minimum", a, b)


@lowers("addcmul.default", elementwise=True)
def add_scaled(builder: Builder, shape: Shape, x: Any, a: Any, b: Any, *, value: float = 1) -> Ref:
    """x + value · a · b of constants and one value: an affine map, which fuses with others."""
    return pointwise.add(builder, shape, x, pointwise.multiply(builder, shape, a, b), value)


@lowers("addcmul.default", fallback=True)
def add_product(builder: Builder, shape: Shape, x: Any, a: Any, b: Any, *, value: float = 1) -> Ref:
    """x + value · a · b."""
    if not isinstance(a, Ref) and not isinstance(b, Ref):
        return of_two(builder, "add", x, as_constant(a) * as_constant(b) * value)
    return add(builder, shape, x, of_two(builder, "mul", a, b), value)


@lowers("addcdiv.default", fallback=True)
def add_quotient(
    builder: Builder, shape: Shape, x: Any, a: Any, b: Any, *, value: float = 1
) -> Ref:
    """x + value · a / b."""
    if not isinstance(a, Ref) and not isinstance(b, Ref):
        return of_two(builder, "add", x, as_constant(a) / as_constant(b) * value)
    return add(builder, shape, x, of_two(builder, "div", a, b), value)


@lowers("lerp.Scalar", "lerp.Tensor", fallback=True)
def interpolate(builder: Builder, shape: Shape, a: Any, b: Any, weight: Any) -> Ref:
    """a + weight · (b - a)."""
    between: Any = (
        as_constant(b) - as_constant(a) if _constants(a, b) else subtract(builder, shape, b, a)
    )
    if _constants(between, weight):
        return add(builder, shape, a, as_constant(between) * as_constant(weight))
    return add(builder, shape, a, multiply(builder, shape, between, weight))


def _constants(*operands: Any) -> bool:
    return not any(isinstance(operand, Ref) for operand in operands)


def _function(name: str, operation: str) -> None:
    """A rule for a function of two operands."""

    def rule(builder: Builder, shape: Shape, a: Any, b: Any) -> Ref:
        return of_two(builder, name, a, b)

    rule.__doc__ = f"aten.{name}."
    lowers(operation, fallback=True)(rule)


for _name in ("atan2", "hypot", "logaddexp"):
    _function(_name, f"{_name}.default")
_function("pow", "pow.Tensor_Tensor")


@lowers("batch_norm.default", fallback=True)
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
    """As a product and a sum, where the images are merged with what is before the channels."""
    scale, shift = pointwise.scale_and_shift(weight, bias, mean, variance, training, eps)
    channels = (len(scale), *[1] * (len(x.view.shape) - 1 - x.merged))
    scaled = of_two(builder, "mul", x, scale.reshape(channels))
    return of_two(builder, "add", scaled, shift.reshape(channels))
