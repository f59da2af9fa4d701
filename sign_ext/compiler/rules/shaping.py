"""Rules for concatenation and padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sign_ext.compiler.builder import in_network_order, relabelled, stored
from sign_ext.compiler.ir.op import Shape, count
from sign_ext.compiler.ir.shaping import Concat
from sign_ext.compiler.ir.view import View
from sign_ext.compiler.lower import Builder, Ref, lowers
from sign_ext.errors import UnsupportedOperation


@lowers("cat.default", views=True)
def cat(builder: Builder, shape: Shape, tensors: Any, dim: int = 0) -> Ref:
    """Concatenation along any dimension but the batch."""
    if not all(isinstance(tensor, Ref) for tensor in tensors):
        raise UnsupportedOperation("a constant is concatenated")
    first: Ref = tensors[0]
    if dim % (len(first.view.shape) + 1 - first.merged) == 0:
        raise UnsupportedOperation("images are concatenated with images")
    if len(tensors) == 1:
        return first
    axis = first.axis(dim)
    if all(len(each.view.shape) == 3 and not _has_channels_last(each) for each in tensors):
        images = [stored(builder, replace(each, merged=False)) for each in tensors]
        return builder.add(Concat, tuple(images), shape, dim=axis + 1)
    if len(shape) == 1:
        parts = tuple(stored(builder, each) for each in tensors)
        return builder.add(Concat, parts, shape, dim=1)
    return _cat_tokens(builder, shape, tensors, axis)


def _has_channels_last(x: Ref) -> bool:
    """Whether the network has what is innermost in memory in the last of several dimensions."""
    return x.view.shape[-1] > 1 and x.view.strides[-1] == 1


def _cat_tokens(builder: Builder, shape: Shape, tensors: Sequence[Ref], axis: int) -> Ref:
    """Of values whose channels are the last dimension, along that or a dimension of positions."""
    last = len(shape) - 1
    before = count(shape[:axis])
    if axis != last and axis != last - 1 and before > 1:
        raise UnsupportedOperation(f"a concatenation along dimension {axis + 1} of {shape}")
    parts = []
    for each in tensors:
        ordered = in_network_order(builder, replace(each, merged=False))
        sizes = ordered.view.shape
        if axis < last - 1:  # (F, T, positions of each), along the second
            after = count(sizes[axis + 1 : -1])
            ordered = relabelled(builder, ordered, (sizes[-1], sizes[axis], after))
        parts.append(ordered)
    dim = 1 if axis == last else 3 if axis == last - 1 else 2
    whole = list(parts[0].shape)
    whole[dim - 1] = sum(part.shape[dim - 1] for part in parts)
    found = builder.add(Concat, tuple(parts), tuple(whole), dim=dim)
    return found.seen(View.contiguous(shape))
