"""The program under construction, and how values are brought into an order that rules take."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sign_ext.compiler.ir.op import Op, Shape, count
from sign_ext.compiler.ir.rearrange import Rearrange
from sign_ext.compiler.ir.shaping import Reshape, Slice
from sign_ext.compiler.ir.view import View, contiguous_strides, stored_shape, stored_strides
from sign_ext.compiler.refs import Ref
from sign_ext.errors import UnsupportedOperation


@dataclass
class Builder:
    """The program so far."""

    batch: int  # the number of images that was recorded
    dtype: torch.dtype = torch.float32  # of the network
    ops: list[Op] = field(default_factory=list)
    copies: dict[Hashable, Op] = field(default_factory=dict)  # by `once`

    def add(self, kind: type[Op], inputs: tuple[Ref, ...], shape: Shape, **options: Any) -> Ref:
        """Append an operation, and return its output, seen as it is stored.

        Args:
            kind: its class.
            inputs: what it reads, as stored.
            shape: one image's of its output, as stored.
            **options: the class's other fields.

        Raises:
            UnsupportedOperation: its operators do not take values of this many dimensions.
        """
        if kind.ranks and len(shape) not in kind.ranks:
            raise UnsupportedOperation(f"a value of shape {shape}")
        op = kind(
            inputs=tuple(ref.number for ref in inputs),
            in_shapes=tuple(ref.shape for ref in inputs),
            output=len(self.ops) + 1,
            shape=shape,
            **options,
        )
        self.ops.append(op)
        return Ref(op.output, shape)

    def once(self, kind: type[Op], x: Ref, shape: Shape, **options: Hashable) -> Ref:
        """The same for an operation that only moves elements: one is enough for all readers.

        Args:
            kind: its class.
            x: what it reads.
            shape: one image's of its output.
            **options: the class's other fields.
        """
        key = (kind, x.number, x.shape, shape, *sorted(options.items(), key=lambda item: item[0]))
        known = self.copies.get(key)
        # Operations that were tried are taken off the end of the list again.
        if known is None or known.output > len(self.ops) or self.ops[known.output - 1] is not known:
            made = self.add(kind, (x,), shape, **options)
            known = self.copies[key] = self.ops[made.number - 1]
        return Ref(known.output, shape)


def stored(builder: Builder, x: Ref) -> Ref:
    """A value that is stored in the network's shape; no operation where it is.

    Args:
        builder: where a copy is appended.
        x: the value.

    Raises:
        UnsupportedOperation: the images are not in a dimension of their own, the first.
    """
    if x.merged:
        raise UnsupportedOperation("the images are merged with another dimension")
    if x.images:
        raise UnsupportedOperation("the images are not in the first dimension")
    if x.is_plain:
        return x
    shape, view = x.view.shape, x.view
    whole = x.covers and view == View.of_stored(shape)
    channels = {each[0] if each else 1 for each in (x.shape, shape)}
    if whole and len(channels) == 1 and len(x.shape) in (1, 3) and len(shape) in (1, 3):
        # Of one channel count, or (C, 1, 1) and (C,): the same memory under another name.
        return builder.once(Reshape, x, shape)
    if (part := _slice(x)) is not None:
        return builder.once(Slice, x, shape, **part)
    order = (1, 2, 0) if len(shape) == 3 else tuple(range(len(shape)))
    return builder.once(Rearrange, x, shape, view=view.permuted(order))


def relabelled(builder: Builder, x: Ref, shape: Shape) -> Ref:
    """The same memory under another shape (C, H, W), seen as before.

    Args:
        builder: where an operation that moves nothing is appended, if need be.
        x: stored as (C, H, W).
        shape: of the same channels and number of positions.
    """
    if x.shape == shape or len(x.shape) != 3:
        return x
    made = builder.once(Reshape, x, shape)
    return replace(x, number=made.number, shape=shape)


def _slice(x: Ref) -> dict[str, Hashable] | None:
    """The options of a `Slice` along one dimension that has the elements of a view, if any."""
    view, shape, strides = x.view, x.shape, stored_strides(x.shape)
    if len(view.shape) != len(shape):
        return None
    cut = [d for d, (n, whole) in enumerate(zip(view.shape, shape, strict=True)) if n != whole]
    same = all(
        view.shape[d] == 1 or view.strides[d] == strides[d]
        for d in range(len(shape))
        if d not in cut
    )
    if len(cut) != 1 or not same:
        return None
    (d,) = cut
    n, whole = view.shape[d], shape[d]
    step = view.strides[d] // strides[d] if n > 1 else 1
    start, rest = divmod(view.offset, strides[d])
    stop = start + (n - 1) * step + 1
    if rest or step < 1 or (n > 1 and step * strides[d] != view.strides[d]):
        return None
    return {"dim": d + 1, "start": start, "stop": stop, "step": step} if stop <= whole else None


def _channels_of(builder: Builder, x: Ref) -> Ref | None:
    """A copy of some channels of all positions, which are in order, the channels last; or None."""
    if len(x.shape) != 3 or not x.view.shape:
        return None
    *positions, part = x.view.shape
    if not 1 < part < x.shape[0]:
        return None
    strides = (*(n * x.shape[0] for n in contiguous_strides(positions)), 1)
    start, whole = x.view.offset, x.shape[0]
    whole_width = count(tuple(positions)) == count(x.shape[1:]) and start + part <= whole
    if not whole_width or x.view != View(x.view.shape, strides, start):
        return None
    shape = (part, *x.shape[1:])
    made = builder.once(Slice, x, shape, dim=1, start=start, stop=start + part, step=1)
    return replace(x, number=made.number, shape=shape, view=View.contiguous(x.view.shape))


def in_network_order(builder: Builder, x: Ref) -> Ref:
    """A copy of a value that is contiguous for the network, its last dimension innermost.

    Args:
        builder: where it is appended.
        x: the value, with the images anywhere.
    """
    shape = x.view.shape
    if x.view == View.contiguous(shape) and x.shape == stored_shape(shape):
        return x
    if x.view == View.contiguous(shape) and x.covers and x.shape[:1] == shape[-1:]:
        return relabelled(builder, x, stored_shape(shape))
    if (part := _channels_of(builder, x)) is not None:
        return relabelled(builder, part, stored_shape(shape))
    made = builder.once(Rearrange, x, stored_shape(shape), view=x.view)
    return replace(x, number=made.number, shape=made.shape, view=View.contiguous(shape))


def condensed(builder: Builder, x: Ref) -> Ref:
    """A copy of what the network sees of a value, in the order in which it lies in memory.

    Args:
        builder: where it is appended.
        x: the value, with the images anywhere.
    """
    order = x.view.outermost_first()
    shape = tuple(x.view.shape[d] for d in order)
    if len(order) == 3 and order[-1] == 0:
        plain = stored(builder, replace(x, images=0, merged=False, images_last=False))
        return replace(x, number=plain.number, shape=plain.shape, view=plain.view)
    if (part := _channels_of(builder, x)) is not None:
        return part
    made = builder.once(Rearrange, x, stored_shape(shape), view=x.view.permuted(order))
    view = View.contiguous(shape).permuted([order.index(d) for d in range(len(order))])
    return replace(x, number=made.number, shape=made.shape, view=view)


def tokens(builder: Builder, x: Ref) -> Ref:
    """A value whose channels are the last dimension of the network's; no operation where they are.

    Args:
        builder: where a copy is appended.
        x: the value.

    Returns:
        Stored as (C,) or (C, H, W), of which the network sees each position once.

    Raises:
        UnsupportedOperation: the last dimension is that of the images.
    """
    view = x.view
    if x.images == len(view.shape) - x.merged:
        raise UnsupportedOperation("the last dimension is that of the images")
    if len(view.shape) == 1:
        return stored(builder, x)
    innermost = view.shape[-1] == x.shape[0] and (view.strides[-1] == 1 or view.shape[-1] == 1)
    return x if len(x.shape) == 3 and innermost and x.covers else in_network_order(builder, x)


def with_channels(x: Ref, found: Ref) -> Ref:
    """What was computed from the channels at each position, seen as what it was computed from.

    Args:
        x: from `tokens`.
        found: the result, of x's shape but for the number of channels.
    """
    before, after = x.shape[0], found.shape[0]
    shape = (*x.view.shape[:-1], after)
    strides = (*(stride // before * after for stride in x.view.strides[:-1]), 1)
    return replace(x, number=found.number, shape=found.shape, view=View(shape, strides))


def arranged(builder: Builder, x: Ref, like: Ref) -> Ref:
    """A value stored as another of the network's shape; no operation where it is.

    Args:
        builder: where a copy is appended.
        x: the value.
        like: the other one, of which the network sees each element once.
    """
    if x.view == like.view and x.shape == like.shape:
        return x
    if x.view == like.view and x.covers and x.shape[0] == like.shape[0]:
        return builder.once(Reshape, x, like.shape).seen(like.view)
    if like.view == View.of_stored(like.shape):
        return stored(builder, replace(x, images=0, merged=False, images_last=False))
    if like.view == View.contiguous(x.view.shape):
        part = _channels_of(builder, x)
        if part is not None and part.shape == like.shape:
            return part
    view = x.view.permuted(like.view.outermost_first())
    return builder.once(Rearrange, x, like.shape, view=view).seen(like.view)


def stored_constant(constant: Tensor, like: Ref, images: int) -> Tensor:
    """A constant operand of an elementwise operation, for a value as it is stored.

    Args:
        constant: it spreads over the network's tensor, and is the same for all images.
        like: the value, of which the network sees each element once.
        images: how many were recorded.

    Returns:
        (1, C, 1, 1) where it is one number a channel, else (1, *like.shape).

    Raises:
        UnsupportedOperation: it is larger than the value, or not the same for all images.
    """
    view, at = like.view, like.images
    shape = (1,) * (len(like.sizes(images)) - constant.dim()) + tuple(constant.shape)
    wanted = like.sizes(images)
    if len(shape) > len(wanted) or any(n not in (1, m) for n, m in zip(shape, wanted, strict=True)):
        raise UnsupportedOperation(
            f"a constant of shape {tuple(constant.shape)} for a value of shape {view.shape}"
        )
    constant = constant.reshape(shape).movedim(at, 0)
    if len(constant) > 1:
        if like.images_last:
            constant = constant.unflatten(0, (-1, images)).transpose(0, 1).flatten(0, 1)
        rows = constant.reshape(images, -1)
        if not bool((rows == rows[:1]).all()):
            raise UnsupportedOperation("a constant that differs between the images")
        constant = constant[: len(constant) // images]
    # Now (1 or windows, ...) of one image.
    constant = constant.movedim(0, at) if like.merged else constant[0]
    if constant.numel() == 1:
        return constant.reshape((1,) * (len(like.shape) + 1))
    whole = constant.new_empty((1, count(like.shape)))
    view.on(whole).copy_(constant.expand(view.shape))
    found = whole.as_strided((1, *like.shape), (count(like.shape), *stored_strides(like.shape)))
    first = found[(slice(None), slice(None), *[slice(1)] * (len(like.shape) - 1))]
    return first if bool((found == first).all()) else found


def one_image(constant: Tensor, images: int, merged: bool) -> Tensor:
    """One image's share of a constant that has all dimensions of a value.

    Args:
        constant: (N or 1, ...), or (N · windows, ...) or (windows, ...).
        images: how many were recorded.
        merged: whether the images are merged with the windows.

    Raises:
        UnsupportedOperation: it is not the same for all images.
    """
    if not merged and len(constant) == 1:
        return constant[0]
    rows = constant.reshape(images, -1, *constant.shape[1:])
    if not bool((rows == rows[:1]).all()):
        raise UnsupportedOperation("a constant that differs between the images")
    return rows[0] if merged else rows[0, 0]


def token_ref(number: int, shape: Shape) -> Ref:
    """A contiguous value of the network's, as islands give it.

    Args:
        number: the value's.
        shape: one image's: (C, H, W), stored with the channels innermost, or another, stored with
            the last dimension innermost.
    """
    if len(shape) in (0, 1, 3):
        return Ref(number, shape)
    return Ref(number, stored_shape(shape), View.contiguous(shape))


def tokens_or_image(builder: Builder, x: Ref) -> Ref:
    """A copy of a part of a value, stored as `token_ref` has it.

    Args:
        builder: where it is appended.
        x: the value.
    """
    return stored(builder, x) if len(x.view.shape) in (0, 1, 3) else in_network_order(builder, x)


def dense(builder: Builder, x: Ref) -> Ref:
    """A value that the network sees whole: itself, or a copy of what it sees.

    Args:
        builder: where a copy is appended.
        x: the value, with the images anywhere.
    """
    return x if x.covers else in_network_order(builder, x)
