"""Rules for concatenation and padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from sign_ext.compiler.builder import in_network_order, one_image, relabelled, stored
from sign_ext.compiler.ir.insert import Insert
from sign_ext.compiler.ir.op import Shape, count
from sign_ext.compiler.ir.shaping import Concat
from sign_ext.compiler.ir.view import View, stored_shape
from sign_ext.compiler.lower import Builder, Ref, lowers
from sign_ext.errors import UnsupportedOperation


@lowers("cat.default", "concat.default", "concatenate.default", views=True)
def cat(builder: Builder, shape: Shape, tensors: Sequence[Any], dim: int = 0) -> Ref:
    """Concatenation along any dimension but the images', of values and constants."""
    first: Ref = next(each for each in tensors if isinstance(each, Ref))
    axis = first.axis(dim)
    if len(tensors) == 1:
        return first
    refs = [replace(each, merged=False) for each in tensors if isinstance(each, Ref)]
    if len(shape) == 1 or (len(shape) == 3 and not any(map(_has_channels_last, refs))):
        return _joined(builder, shape, axis, tensors, first.merged, lambda x: stored(builder, x))
    return _join_tokens(builder, shape, tensors, axis, first.merged)


@lowers("hstack.default", "column_stack.default", views=True)
def hstack(builder: Builder, shape: Shape, tensors: Sequence[Any]) -> Ref:
    """Concatenation along the second dimension."""
    if not shape:
        raise UnsupportedOperation("the images are joined with images")
    return cat(builder, shape, tensors, 1)


@lowers("dstack.default", views=True)
def dstack(builder: Builder, shape: Shape, tensors: Sequence[Any]) -> Ref:
    """Concatenation along the third dimension."""
    if len(shape) < 2:
        raise UnsupportedOperation("of values of fewer dimensions")
    return cat(builder, shape, tensors, 2)


@lowers("stack.default", views=True)
def stack(builder: Builder, shape: Shape, tensors: Sequence[Any], dim: int = 0) -> Ref:
    """The same along a new dimension."""
    first: Ref = next(each for each in tensors if isinstance(each, Ref))
    dim %= len(first.view.shape) + 2 - first.merged
    if dim == 0 or (dim == 1 and first.merged):
        raise UnsupportedOperation("images are stacked with images")
    at = dim if first.merged else dim - 1

    def deeper(x: Any) -> Any:
        if not isinstance(x, Ref):
            return x.unsqueeze(dim)
        view = x.view
        sizes, strides = ((*each[:at], 1, *each[at:]) for each in (view.shape, view.strides))
        return x.seen(View(sizes, strides, view.offset))

    return cat(builder, shape, [deeper(each) for each in tensors], dim)


def _has_channels_last(x: Ref) -> bool:
    """Whether the network has what is innermost in memory in the last of several dimensions."""
    return x.view.shape[-1] > 1 and x.view.strides[-1] == 1


def _join_tokens(
    builder: Builder, shape: Shape, tensors: Sequence[Any], axis: int, merged: bool
) -> Ref:
    """Of values whose channels are the last dimension, along that or a dimension of positions."""
    if any(isinstance(each, Ref) and len(each.shape) == 1 for each in tensors):
        raise UnsupportedOperation("vectors become rows")
    last = len(shape) - 1
    before = count(shape[:axis])
    if axis < last - 1 and before > 1:
        raise UnsupportedOperation(f"a concatenation along dimension {axis + 1} of {shape}")

    def label(sizes: Shape) -> Shape:
        if axis < last - 1:  # (F, T, positions of each), along the second
            return (sizes[-1], sizes[axis], count(sizes[axis + 1 : -1]))
        return stored_shape(sizes)

    def part(x: Ref) -> Ref:
        ordered = in_network_order(builder, x)
        return relabelled(builder, ordered, label(ordered.view.shape))

    place = 0 if axis == last else 2 if axis == last - 1 else 1
    found = _joined(builder, label(shape), place, tensors, merged, part, seen=shape)
    return found.seen(View.contiguous(shape))


def _joined(
    builder: Builder,
    shape: Shape,
    axis: int,
    tensors: Sequence[Any],
    merged: bool,
    part: Callable[[Ref], Ref],
    seen: Shape | None = None,
) -> Ref:
    """A `Concat`, or an `Insert` where some are constants.

    Args:
        builder: the program.
        shape: of the result, as stored.
        axis: the dimension of `shape`.
        tensors: what is concatenated.
        merged: whether the values have merged the images with others.
        part: a value in its stored shape.
        seen: the result's shape with the last dimension innermost; None for as stored.
    """
    parts = [
        part(replace(each, merged=False)) if isinstance(each, Ref) else each for each in tensors
    ]
    refs = tuple(each for each in parts if isinstance(each, Ref))
    if len(refs) == len(parts):
        return builder.add(Concat, refs, shape, dim=axis + 1)
    starts, at = [], 0
    whole = torch.zeros((1, *shape), dtype=torch.float64)
    for each in parts:
        if isinstance(each, Ref):
            starts.append(at)
            at += each.shape[axis]
            continue
        constant = one_image(each, builder.batch, merged).double()
        if seen is not None:  # (..., T, F) to (F, ..., T)
            constant = constant.reshape(-1, constant.shape[-1]).t()
        size = constant.numel() // (count(shape) // shape[axis])
        span = constant.reshape(*shape[:axis], size, *shape[axis + 1 :])
        whole = whole.to(span.device)
        whole.narrow(axis + 1, at, size).copy_(span)
        at += size
    return builder.add(Insert, refs, shape, constant=whole, dim=axis + 1, starts=tuple(starts))
