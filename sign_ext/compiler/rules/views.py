"""Rules for operations that only change the view of a value; memory is copied only if needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch

from sign_ext.compiler.builder import Builder
from sign_ext.compiler.ir.broadcast import Broadcast
from sign_ext.compiler.ir.rearrange import Rearrange
from sign_ext.compiler.ir.shaping import Reshape
from sign_ext.compiler.ir.view import View, stored_shape
from sign_ext.compiler.lower import Ref, lowers
from sign_ext.compiler.refs import changed, grouped, reshaped
from sign_ext.compiler.rules.viewed import made_by
from sign_ext.errors import UnsupportedOperation

_aten = torch.ops.aten


@lowers(
    "flatten.using_ints",
    "view.default",
    "reshape.default",
    "_unsafe_view.default",
    "unsqueeze.default",
    "squeeze.dim",
    "squeeze.dims",
    "squeeze.default",
    "unflatten.int",
    "view_as.default",
    "reshape_as.default",
    whole=True,
)
def reshape(builder: Builder, sizes: Sequence[int], x: Ref, *_: Any, **__: Any) -> Ref:
    """The same elements in another shape, as a view where their places allow it."""
    found = reshaped(x, sizes, builder.batch)
    if found is not None:
        return found
    shape = tuple(sizes[1:])
    if x.is_plain and sizes[0] == builder.batch and len(shape) in (1, 3):
        return builder.once(Reshape, x, shape)
    if _keeps_channels(builder, x, sizes):
        x = _channels_in_order(builder, x)
        found = reshaped(x, sizes, builder.batch)
        if found is not None:
            return found
    if len(shape) == 1 and not x.images and not x.merged:
        return builder.once(Rearrange, x, shape, view=x.view)
    copy = x.seen(View.contiguous(x.view.shape))
    found = reshaped(copy, sizes, builder.batch)
    if found is None:
        raise UnsupportedOperation(f"the images are merged with others in {tuple(sizes)}")
    made = builder.once(Rearrange, x, stored_shape(found.view.shape), view=x.view)
    return replace(found, number=made.number, shape=made.shape)


def _keeps_channels(builder: Builder, x: Ref, sizes: Sequence[int]) -> bool:
    """Whether what is innermost becomes a dimension that is not the last: (N, C, H, W)."""
    groups = grouped(x, sizes, builder.batch)
    if groups is None or len(x.shape) != 3:
        return False
    inner = [[atom.stride is not None and atom.stride < x.shape[0] for atom in g] for g in groups]
    (*others, last) = [any(group) for group in inner]
    return not last and sum(others) == 1 and all(map(all, (g for g in inner if any(g))))


def _channels_in_order(builder: Builder, x: Ref) -> Ref:
    """A copy with the channels innermost, and both they and positions in the network's order."""
    dims = range(len(x.view.shape))
    inner = [d for d in dims if x.view.strides[d] < x.shape[0]]
    outer = [d for d in dims if d not in inner]
    view = x.view.permuted(outer + inner)
    channels, positions = (prod(x.view.shape[d] for d in each) for each in (inner, outer))
    made = builder.once(Rearrange, x, (channels, 1, positions), view=view)
    back = [(outer + inner).index(d) for d in dims]
    return replace(
        x, number=made.number, shape=made.shape, view=View.contiguous(view.shape).permuted(back)
    )


def _moves(name: str) -> None:
    """A rule for an operation whose result is a view of what it is given."""
    packet, _, overload = name.partition(".")
    operation = getattr(getattr(_aten, packet, None), overload, None)
    if operation is None:  # this PyTorch does not have it
        return

    def rule(builder: Builder, sizes: Any, x: Ref, *args: Any, **named: Any) -> Any:
        if not isinstance(x, Ref):
            raise UnsupportedOperation("a constant of a size that depends on the images")
        return changed(x, lambda stand_in: operation(stand_in, *args, **named), builder.batch)

    rule.__doc__ = f"aten.{name}: other sizes and strides."
    lowers(name, whole=True)(rule)


for _name in (
    "permute.default",
    "transpose.int",
    "t.default",
    "numpy_T.default",
    "mT.default",
    "movedim.int",
    "movedim.intlist",
    "moveaxis.int",
    "moveaxis.intlist",
    "swapaxes.default",
    "swapdims.default",
    "select.int",
    "slice.Tensor",
    "narrow.default",
    "unbind.int",
    "split.Tensor",
    "split.sizes",
    "split_with_sizes.default",
    "unsafe_split.Tensor",
    "chunk.default",
    "unsafe_chunk.default",
    "tensor_split.sections",
    "tensor_split.indices",
    "diagonal.default",
):
    _moves(_name)


@lowers("expand.default", "expand_as.default", whole=True)
def expand(builder: Builder, sizes: Sequence[int], x: Ref, *_: Any, **__: Any) -> Ref:
    """A value repeated along dimensions of size 1."""
    if not isinstance(x, Ref):
        raise UnsupportedOperation("a constant of a size that depends on the images")
    found: Ref = changed(x, lambda stand_in: stand_in.expand(*sizes), builder.batch)
    return found


@lowers("dropout.default", "alpha_dropout.default", "feature_dropout.default", whole=True)
def dropout(builder: Builder, sizes: Sequence[int], x: Ref, p: float, train: bool) -> Ref:
    """No operation in evaluation mode."""
    if train and p:
        raise UnsupportedOperation("it is active in evaluation mode")
    return x


@lowers(
    "contiguous.default", "clone.default", "alias.default", "lift_fresh_copy.default", whole=True
)
def same(builder: Builder, sizes: Sequence[int], x: Ref, **_: Any) -> Ref:
    """The same values."""
    return x


@lowers(
    "to.dtype", "to.dtype_layout", "_to_copy.default", "to.device", "to.other", "type_as.default",
    whole=True,
)  # fmt: skip
def to_dtype(builder: Builder, sizes: Sequence[int], x: Ref, *args: Any, **named: Any) -> Ref:
    """The same values.

    A network in half precision may compute a part in float32. Its program computes in float32 and
    stores in half precision everywhere, as autocast's would; other changes of dtype are refused.
    """
    op = made_by(builder, x.number)
    if isinstance(op, Broadcast) and op.is_mask:
        same = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
    else:
        same = {builder.dtype}
    if builder.dtype in (torch.bfloat16, torch.float16):
        same.add(torch.float32)
    for value in (*args, *named.values()):
        if isinstance(value, torch.Tensor):
            value = value.dtype
        if isinstance(value, torch.dtype) and value not in same:
            raise UnsupportedOperation(f"a change of type to {value}")
    return x
