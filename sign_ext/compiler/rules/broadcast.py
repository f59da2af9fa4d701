"""Rules for arithmetic of shapes that broadcast, where those for equal shapes do not cover it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sign_ext.compiler.builder import Builder
from sign_ext.compiler.ir.broadcast import Broadcast, Select
from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.lower import lowers
from sign_ext.compiler.refs import Ref
from sign_ext.compiler.rules.viewed import (
    add_alike,
    as_constant,
    merged_in,
    number_of,
    of_one_image,
)
from sign_ext.errors import UnsupportedOperation


def _of_two(builder: Builder, function: str, a: Any, b: Any) -> Ref:
    """a ∘ b, one of which may be a constant."""
    merged = merged_in(a, b)
    if isinstance(a, Ref) and isinstance(b, Ref):
        shape = tuple(torch.broadcast_shapes(a.view.shape, b.view.shape))
        if merged and len(a.view.shape) != len(b.view.shape):
            raise UnsupportedOperation(f"windows of shapes {a.view.shape} and {b.view.shape}")
        return add_alike(builder, Broadcast, [a, b], shape, function=function)
    x, other = (a, b) if isinstance(a, Ref) else (b, a)
    constant = _constant(builder, other, x)
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


def _constant(builder: Builder, value: Any, x: Ref) -> Tensor:
    """A constant operand that broadcasts with one image of a value."""
    tensor = as_constant(value)
    dims = max(len(x.view.shape), tensor.dim() - (not x.merged))
    return of_one_image(builder, tensor, dims, x.merged)


@lowers("add.Tensor", "add.Scalar", fallback=True)
def add(builder: Builder, shape: Shape, a: Any, b: Any, alpha: float = 1) -> Ref:
    """a + alpha · b."""
    if alpha == -1:
        return _of_two(builder, "sub", a, b)
    if alpha != 1:
        b = _of_two(builder, "mul", b, alpha) if isinstance(b, Ref) else as_constant(b) * alpha
    return _of_two(builder, "add", a, b)


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
    return _of_two(builder, "mul", a, b)


@lowers("div.Tensor", "div.Scalar", fallback=True)
def divide(builder: Builder, shape: Shape, a: Any, b: Any) -> Ref:
    """a / b."""
    return _of_two(builder, "div", a, b)


@lowers("maximum.default", "max.other", fallback=True)
def maximum(builder: Builder, shape: Shape, a: Any, b: Any) -> Ref:
    """The larger of two."""
    return _of_two(builder, "maximum", a, b)


@lowers("minimum.default", "min.other", fallback=True)
def minimum(builder: Builder, shape: Shape, a: Any, b: Any) -> Ref:
    """The smaller of two."""
    return _of_two(builder, "minimum", a, b)


@lowers("addcmul.default", fallback=True)
def add_product(builder: Builder, shape: Shape, x: Any, a: Any, b: Any, *, value: float = 1) -> Ref:
    """x + value · a · b."""
    if not isinstance(a, Ref) and not isinstance(b, Ref):
        return _of_two(builder, "add", x, as_constant(a) * as_constant(b) * value)
    return add(builder, shape, x, _of_two(builder, "mul", a, b), value)


@lowers("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar", fallback=True)
def where(builder: Builder, shape: Shape, mask: Any, a: Any, b: Any) -> Ref:
    """a where a constant mask is set, else b."""
    if isinstance(mask, Ref):
        raise UnsupportedOperation("its mask depends on the images")
    if isinstance(a, Ref) and isinstance(b, Ref):
        whole = tuple(torch.broadcast_shapes(a.view.shape, b.view.shape, _shape(builder, mask, a)))
        return add_alike(builder, Select, [a, b], whole, mask=_constant(builder, mask, a))
    if not isinstance(a, Ref):
        return _filled(builder, b, mask, a)
    return _filled(builder, a, ~mask.bool(), b)


@lowers("masked_fill.Scalar", "masked_fill.Tensor", fallback=True)
def masked_fill(builder: Builder, shape: Shape, x: Any, mask: Any, value: Any) -> Ref:
    """A constant where a constant mask is set, else x."""
    if isinstance(mask, Ref) or isinstance(value, Ref):
        raise UnsupportedOperation("its mask or its value depends on the images")
    return _filled(builder, x, mask, value)


def _shape(builder: Builder, mask: Tensor, x: Ref) -> Shape:
    return tuple(_constant(builder, mask, x).shape)


def _filled(builder: Builder, x: Ref, mask: Tensor, value: Any) -> Ref:
    """A constant where a mask is set, else x."""
    fill = number_of(value)
    inside = _constant(builder, mask, x)
    shape = tuple(torch.broadcast_shapes(x.view.shape, inside.shape))
    found = add_alike(builder, Select, [x], shape, mask=inside, fill=0.0 if fill is None else fill)
    if fill is not None:
        return found
    whole = torch.where(mask.bool(), as_constant(value), 0.0)
    return _of_two(builder, "add", Ref(found.number, found.shape, found.view, 0, x.merged), whole)
