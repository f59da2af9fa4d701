"""Rules for operations that only move elements, or do nothing in evaluation mode."""

from __future__ import annotations

from typing import Any

import torch

from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.ir.shaping import Concat, Pad, Reshape, Slice
from sign_ext.compiler.lower import Builder, Ref, lowers, require_image
from sign_ext.compiler.rules.border import bordered
from sign_ext.errors import UnsupportedOperation


def reshaped(builder: Builder, x: Ref, shape: Shape) -> Ref:
    """The same elements in another shape; no operation where the shape is the same."""
    return x if x.shape == shape else builder.add(Reshape, (x,), shape)


@lowers("cat.default")
def cat(builder: Builder, shape: Shape, tensors: Any, dim: int = 0) -> Ref:
    """Concatenation along any dimension but the batch."""
    dim %= len(shape) + 1
    if dim == 0:
        raise UnsupportedOperation("images are concatenated with images")
    if not all(isinstance(tensor, Ref) for tensor in tensors):
        raise UnsupportedOperation("a constant is concatenated")
    return tensors[0] if len(tensors) == 1 else builder.add(Concat, tuple(tensors), shape, dim=dim)


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
)
def reshape(builder: Builder, shape: Shape, x: Ref, *_: Any, **__: Any) -> Ref:
    """Each image in another shape."""
    return reshaped(builder, x, shape)


@lowers("dropout.default", "alpha_dropout.default", elementwise=True)
@lowers("feature_dropout.default")
def dropout(builder: Builder, shape: Shape, x: Ref, p: float, train: bool) -> Ref:
    """No operation in evaluation mode."""
    if train and p:
        raise UnsupportedOperation("it is active in evaluation mode")
    return x


@lowers(
    "contiguous.default",
    "clone.default",
    "alias.default",
    "lift_fresh_copy.default",
    elementwise=True,
)
def same(builder: Builder, shape: Shape, x: Ref, **_: Any) -> Ref:
    """The same values."""
    return x


@lowers("to.dtype", "to.dtype_layout", "_to_copy.default", "to.device", "to.other")
def to_dtype(builder: Builder, shape: Shape, x: Ref, *args: Any, **named: Any) -> Ref:
    """The same values; a change of dtype is refused."""
    for value in (*args, *named.values()):
        if isinstance(value, torch.dtype) and value != builder.dtype:
            raise UnsupportedOperation(f"a change of type to {value}")
    return x


@lowers("pad.default", "constant_pad_nd.default")
def pad(builder: Builder, shape: Shape, x: Ref, amounts: Any, *rest: Any, **named: Any) -> Ref:
    """A constant around the image, or the image itself."""
    require_image(x)
    mode = named.get("mode", rest[0] if rest and isinstance(rest[0], str) else "constant")
    values = [v for v in (*rest, named.get("value")) if isinstance(v, int | float)]
    if mode != "constant":
        return bordered(builder, shape, x, amounts, mode)
    if len(amounts) > 4 and any(amounts[4:]):
        raise UnsupportedOperation("padding of channels")
    left, right, top, bottom = (*amounts[:4], 0, 0)[:4]
    value = float(values[0]) if values else 0.0
    return builder.add(Pad, (x,), shape, amounts=(left, right, top, bottom), value=value)


def sliced(builder: Builder, x: Ref, dim: int, start: int, stop: int, step: int = 1) -> Ref:
    """Positions start:stop:step along a dimension of (N, ...); the value itself if that is all."""
    size = x.shape[dim - 1]
    start, stop, step = slice(start, stop, step).indices(size)
    if (start, stop, step) == (0, size, 1):
        return x
    shape = list(x.shape)
    shape[dim - 1] = len(range(start, stop, step))
    return builder.add(Slice, (x,), tuple(shape), dim=dim, start=start, stop=stop, step=step)


def _inner_dim(dim: int, x: Ref) -> int:
    """A dimension counted from the front, refused if it is the batch."""
    dim %= len(x.shape) + 1
    if dim == 0:
        raise UnsupportedOperation("it selects images of the batch")
    return dim


@lowers("slice.Tensor")
def slice_tensor(
    builder: Builder,
    shape: Shape,
    x: Ref,
    dim: int = 0,
    start: int | None = None,
    stop: int | None = None,
    step: int = 1,
) -> Ref:
    """x[..., start:stop:step, ...]."""
    whole = start in (None, 0) and (stop is None or stop > 2**60) and step == 1
    if whole:
        return x
    return sliced(builder, x, _inner_dim(dim, x), start or 0, 2**62 if stop is None else stop, step)


@lowers("narrow.default")
def narrow(builder: Builder, shape: Shape, x: Ref, dim: int, start: int, length: int) -> Ref:
    """`length` positions from `start`."""
    return sliced(builder, x, _inner_dim(dim, x), start, start + length)


@lowers("chunk.default")
def chunk(builder: Builder, shape: Shape, x: Ref, chunks: int, dim: int = 0) -> tuple[Ref, ...]:
    """Equal slices, the last one perhaps smaller."""
    dim = _inner_dim(dim, x)
    return split(builder, shape, x, -(-x.shape[dim - 1] // chunks), dim)


@lowers("split.Tensor", "split.sizes", "split_with_sizes.default")
def split(builder: Builder, shape: Shape, x: Ref, sizes: Any, dim: int = 0) -> tuple[Ref, ...]:
    """Slices of the given sizes."""
    dim = _inner_dim(dim, x)
    total = x.shape[dim - 1]
    if isinstance(sizes, int):
        sizes = [min(sizes, total - start) for start in range(0, total, sizes)]
    slices, start = [], 0
    for size in sizes:
        slices.append(sliced(builder, x, dim, start, start + size))
        start += size
    return tuple(slices)
