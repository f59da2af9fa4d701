"""Rules for masks: comparisons, what is computed from them, and what they choose.

A mask that depends on the images is stored as 0 and 1 in the dtype of activations. Where it only
chooses, the comparison becomes a part of the choice, and the mask is not stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sign_ext.compiler.builder import Builder
from sign_ext.compiler.ir.broadcast import Broadcast, Select
from sign_ext.compiler.ir.choose import COMPARISONS, Choose
from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.lower import lowers
from sign_ext.compiler.refs import Ref
from sign_ext.compiler.rules.broadcast import constant_of, of_two
from sign_ext.compiler.rules.viewed import add_alike, as_constant, made_by, merged_in, number_of
from sign_ext.errors import UnsupportedOperation

_MIRRORED = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge", "eq": "eq", "ne": "ne"}


def _comparison(name: str) -> None:
    """A rule for a comparison of two values, or of a value and a constant."""

    def rule(builder: Builder, shape: Shape, a: Any, b: Any) -> Ref:
        return of_two(builder, name, a, b)

    rule.__doc__ = f"aten.{name}."
    lowers(f"{name}.Tensor", f"{name}.Scalar", fallback=True, truth=True)(rule)


for _name in COMPARISONS:
    _comparison(_name)


@lowers("bitwise_and.Tensor", "__and__.Tensor", "logical_and.default", fallback=True, truth=True)
def both(builder: Builder, shape: Shape, a: Any, b: Any) -> Ref:
    """The logical and of two masks."""
    return of_two(builder, "and", a, b)


@lowers("bitwise_or.Tensor", "__or__.Tensor", "logical_or.default", fallback=True, truth=True)
def either(builder: Builder, shape: Shape, a: Any, b: Any) -> Ref:
    """The logical or of two masks."""
    return of_two(builder, "or", a, b)


@lowers("bitwise_xor.Tensor", "__xor__.Tensor", "logical_xor.default", fallback=True, truth=True)
def one_of(builder: Builder, shape: Shape, a: Any, b: Any) -> Ref:
    """The exclusive or of two masks."""
    return of_two(builder, "ne", a, b)


@lowers("bitwise_not.default", "logical_not.default", fallback=True, truth=True)
def opposite(builder: Builder, shape: Shape, x: Ref) -> Ref:
    """The negation of a mask."""
    return of_two(builder, "eq", x, 0.0)


@lowers("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar", fallback=True)
def where(builder: Builder, shape: Shape, mask: Any, a: Any, b: Any) -> Ref:
    """a where a mask is set, else b."""
    if isinstance(mask, Ref):
        return chosen(builder, mask, a, b)
    if isinstance(a, Ref) and isinstance(b, Ref):
        whole = tuple(torch.broadcast_shapes(a.view.shape, b.view.shape, _shape(builder, mask, a)))
        return add_alike(builder, Select, [a, b], whole, mask=constant_of(builder, mask, a))
    if not isinstance(a, Ref):
        return _filled(builder, b, mask, a)
    return _filled(builder, a, ~mask.bool(), b)


@lowers("masked_fill.Scalar", "masked_fill.Tensor", fallback=True)
def masked_fill(builder: Builder, shape: Shape, x: Any, mask: Any, value: Any) -> Ref:
    """A constant where a mask is set, else x."""
    if isinstance(value, Ref):
        raise UnsupportedOperation("its value depends on the images")
    if isinstance(mask, Ref):
        return chosen(builder, mask, value, x)
    return _filled(builder, x, mask, value)


@lowers("index_put.default", fallback=True)
def index_put(
    builder: Builder,
    shape: Shape,
    x: Any,
    places: Sequence[Any],
    value: Any,
    accumulate: bool = False,
) -> Ref:
    """x[mask] = number, the mask having all of x's dimensions."""
    mask = places[0]
    if len(places) != 1 or not isinstance(mask, Ref) or accumulate:
        raise UnsupportedOperation("it writes at places")
    number = None if isinstance(value, Ref) else number_of(value)
    if number is None or not isinstance(x, Ref) or mask.view.shape != x.view.shape:
        raise UnsupportedOperation("it writes more than one number")
    return chosen(builder, mask, number, x)


def chosen(builder: Builder, mask: Ref, a: Any, b: Any) -> Ref:
    """a where a mask that depends on the images is set, else b.

    Args:
        builder: the program.
        mask: 1 or 0.
        a: a value or a constant.
        b: the same.
    """
    comparison, compared, bound = _compared(builder, mask)
    values = [each for each in (a, b) if isinstance(each, Ref)]
    refs = [*compared, *values]
    if len({len(ref.view.shape) for ref in refs}) > 1:
        raise UnsupportedOperation("a mask of fewer dimensions than what it chooses from")
    constants = [
        None if isinstance(each, Ref) else constant_of(builder, each, mask) for each in (a, b)
    ]
    shapes = [ref.view.shape for ref in refs]
    shapes += [tuple(each.shape) for each in (bound, *constants) if each is not None]
    shape = tuple(torch.broadcast_shapes(*shapes))
    found = add_alike(
        builder,
        Choose,
        refs,
        shape,
        comparison=comparison,
        bound=bound,
        first=constants[0],
        second=constants[1],
    )
    return Ref(found.number, found.shape, found.view, 0, mask.merged)


def _compared(builder: Builder, mask: Ref) -> tuple[str, list[Ref], Tensor | None]:
    """The comparison that makes a mask, with its operands; or of the mask itself with 0."""
    op = made_by(builder, mask.number)
    if not isinstance(op, Broadcast) or op.function not in COMPARISONS or op.out != mask.view:
        return "ne", [mask], torch.zeros((), dtype=torch.float64)
    refs = [
        Ref(op.inputs[operand], op.in_shapes[operand], view, 0, mask.merged)
        for operand, view in zip(op.operands, op.views, strict=True)
    ]
    name = _MIRRORED[op.function] if op.constant_first else op.function
    return name, refs, op.constant


def _shape(builder: Builder, mask: Tensor, x: Ref) -> Shape:
    return tuple(constant_of(builder, mask, x).shape)


def _filled(builder: Builder, x: Ref, mask: Tensor, value: Any) -> Ref:
    """A constant where a constant mask is set, else x."""
    fill = number_of(value)
    inside = constant_of(builder, mask, x)
    shape = tuple(torch.broadcast_shapes(x.view.shape, inside.shape))
    found = add_alike(builder, Select, [x], shape, mask=inside, fill=0.0 if fill is None else fill)
    if fill is not None:
        return found
    whole = torch.where(mask.bool(), as_constant(value), 0.0)
    return of_two(builder, "add", Ref(found.number, found.shape, found.view, 0, x.merged), whole)


@lowers("clamp.Tensor", "clamp_min.Tensor", fallback=True)
def clamp(
    builder: Builder, shape: Shape, x: Any, low: Any = None, high: Any = None, **named: Any
) -> Ref:
    """x between bounds of which at least one depends on the images, or differs between places."""
    low, high = named.get("min", low), named.get("max", high)
    return _bounded(builder, _bounded(builder, x, low, "lt"), high, "gt")


@lowers("clamp_max.Tensor", fallback=True)
def clamp_max(builder: Builder, shape: Shape, x: Any, high: Any) -> Ref:
    """The smaller of x and a bound."""
    return _bounded(builder, x, high, "gt")


def _bounded(builder: Builder, x: Any, bound: Any, beyond: str) -> Any:
    if bound is None:
        return x
    merged = merged_in(x, bound)
    mask = of_two(builder, beyond, x, bound)
    return chosen(builder, Ref(mask.number, mask.shape, mask.view, 0, merged), bound, x)


def _triangle(name: str) -> None:
    """A rule for a triangle of matrices, with 0 outside it."""

    def rule(builder: Builder, shape: Shape, x: Ref, diagonal: int = 0) -> Ref:
        inside = torch.ones(x.view.shape[-2:], dtype=torch.bool)
        inside = getattr(inside, name)(diagonal)
        return _filled(builder, x, ~inside, 0.0)

    rule.__doc__ = f"aten.{name}."
    lowers(f"{name}.default", fallback=True)(rule)


for _name in ("triu", "tril"):
    _triangle(_name)
