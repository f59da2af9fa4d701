"""Helpers of rules for operations on views: operands, memory order, constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sign_ext.compiler.builder import Builder
from sign_ext.compiler.ir.op import Op, Shape
from sign_ext.compiler.ir.viewed import Viewed, laid_out, order_of
from sign_ext.compiler.refs import Ref
from sign_ext.errors import UnsupportedOperation


def add_viewed(
    builder: Builder,
    kind: type[Viewed],
    refs: Sequence[Ref],
    shape: Shape,
    *,
    order: Sequence[int] | None = None,
    stored: Shape | None = None,
    **options: Any,
) -> Ref:
    """Append an operation on views.

    Args:
        builder: the program.
        kind: the operation's class.
        refs: its operands.
        shape: one image's of the value, as the network has it.
        order: of its dimensions in memory, the outermost first; None for as they are.
        stored: the stored shape, of the same memory; None for one with the innermost dimension
            as channels.
        **options: the class's other fields.
    """
    innermost, out = laid_out(shape, order)
    return _add(builder, kind, refs, stored or innermost, out, options)


def add_alike(
    builder: Builder, kind: type[Viewed], refs: Sequence[Ref], shape: Shape, **options: Any
) -> Ref:
    """The same for a value computed element by element, which lies as its largest operand does."""
    for ref in refs:
        if ref.view.shape == shape and ref.covers and len(ref.shape) in kind.ranks:
            return _add(builder, kind, refs, ref.shape, ref.view, options)
    return _add(
        builder, kind, refs, *laid_out(shape, order_of(shape, [r.view for r in refs])), options
    )


def _add(
    builder: Builder,
    kind: type[Viewed],
    refs: Sequence[Ref],
    stored: Shape,
    out: Any,
    options: dict[str, Any],
) -> Ref:
    inputs = list({ref.number: Ref(ref.number, ref.shape) for ref in refs}.values())
    numbers = [ref.number for ref in inputs]
    made = builder.add(
        kind,
        tuple(inputs),
        stored,
        operands=tuple(numbers.index(ref.number) for ref in refs),
        views=tuple(ref.view for ref in refs),
        out=out,
        **options,
    )
    return Ref(made.number, stored, out)


def made_by(builder: Builder, number: int) -> Op | None:
    """The operation that computes a value; None for the image, and for what an island will."""
    if not 1 <= number <= len(builder.ops):
        return None
    op = builder.ops[number - 1]
    return op if op.output == number else None


def merged_in(*operands: Any) -> bool:
    """Whether the images are merged with windows, which views then begin with."""
    return any(isinstance(operand, Ref) and operand.merged for operand in operands)


def of_one_image(builder: Builder, constant: Tensor, dims: int, merged: bool) -> Tensor:
    """A constant operand without its dimension of images.

    Args:
        builder: says how many were recorded.
        constant: it broadcasts with the network's tensor.
        dims: of one image of that.
        merged: whether the images are merged with windows, which are the first of `dims`.

    Returns:
        Of at most `dims` dimensions.

    Raises:
        UnsupportedOperation: it is not the same for all images.
    """
    whole = dims if merged else dims + 1
    if constant.dim() < whole:
        return constant
    if constant.dim() > whole:
        raise UnsupportedOperation(f"a constant of shape {tuple(constant.shape)}")
    rows, rest = len(constant), constant.shape[1:]
    if rows == 1:
        return constant if merged else constant[0]
    if rows % builder.batch or (not merged and rows != builder.batch):
        raise UnsupportedOperation(f"a constant of {rows} rows")
    each = constant.reshape(builder.batch, rows // builder.batch, *rest)
    if not bool((each == each[:1]).all()):
        raise UnsupportedOperation("a constant that differs between images")
    return each[0] if merged else each[0, 0]


def number_of(value: Any) -> float | None:
    """A number, or a tensor that is one number everywhere; None for anything else."""
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, Tensor) and value.numel() and bool((value == value.flatten()[0]).all()):
        return float(value.flatten()[0])
    return None


def as_constant(value: Any) -> Tensor:
    """A constant operand as a tensor of float64, -inf and all."""
    if isinstance(value, Tensor):
        return value.double()
    return torch.tensor(float(value), dtype=torch.float64)
