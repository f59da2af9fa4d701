"""Rules for indexing with constants, and for repeating elements along dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sign_ext.compiler.builder import Builder, in_network_order
from sign_ext.compiler.ir.op import Shape, count
from sign_ext.compiler.ir.take import Take
from sign_ext.compiler.ir.view import View, contiguous_strides
from sign_ext.compiler.lower import lowers
from sign_ext.compiler.refs import Ref, changed
from sign_ext.compiler.rules.viewed import add_viewed
from sign_ext.compiler.rules.views import reshape
from sign_ext.errors import UnsupportedOperation


def taken(builder: Builder, x: Ref, axis: int, index: Sequence[int]) -> Ref:
    """Elements along one dimension; a view where they are evenly spaced.

    Args:
        builder: the program.
        x: the value, the images in their own dimension, the first.
        axis: of one image.
        index: of each element of the result, counted from the first or from the end.
    """
    size = x.view.shape[axis]
    index = [i + size if i < 0 else i for i in index]
    if not index or not all(0 <= i < size for i in index):
        raise UnsupportedOperation(f"an index outside a dimension of {size}")
    step = index[1] - index[0] if len(index) > 1 else 1
    if step >= 0 and index == [index[0] + step * i for i in range(len(index))]:
        sizes, strides = list(x.view.shape), list(x.view.strides)
        offset = x.view.offset + index[0] * strides[axis]
        sizes[axis], strides[axis] = len(index), step * strides[axis]
        return x.seen(View(tuple(sizes), tuple(strides), offset))
    dims = len(x.view.shape)
    shape = tuple(len(index) if d == axis else n for d, n in enumerate(x.view.shape))
    order = x.view.outermost_first()
    return add_viewed(builder, Take, [x], shape, order=order, index=tuple(index), dim=axis - dims)


@lowers("index_select.default", views=True)
def index_select(builder: Builder, shape: Shape, x: Ref, dim: int, index: Any) -> Ref:
    """Elements along one dimension."""
    return taken(builder, x, _axis(x, dim), _numbers(index))


def _axis(x: Ref, dim: int) -> int:
    """A dimension of one image, which may not be one that is merged with the images."""
    if not isinstance(x, Ref):
        raise UnsupportedOperation("a constant at places that depend on the images")
    axis = x.axis(dim)
    if x.merged and axis == x.images:
        raise UnsupportedOperation("it is along the dimension of the images")
    return axis


def _numbers(index: Any) -> list[int]:
    if not isinstance(index, Tensor):
        raise UnsupportedOperation("its places depend on the images")
    if index.dtype == torch.bool:
        index = index.nonzero().flatten()
    found: list[int] = index.flatten().tolist()
    return found


@lowers("index.Tensor", views=True)
def index(builder: Builder, shape: Shape, x: Ref, places: Sequence[Any]) -> Ref:
    """x[:, places], x[..., rows, columns]: constants that index adjacent dimensions."""
    given = [(d, each) for d, each in enumerate(places) if each is not None]
    if not all(isinstance(each, Tensor) for _, each in given):
        raise UnsupportedOperation("its places depend on the images")
    if any(each.dtype == torch.bool and each.dim() != 1 for _, each in given):
        raise UnsupportedOperation("a mask of several dimensions")
    axes = [_axis(x, d) for d, _ in given]
    if axes != list(range(axes[0], axes[0] + len(axes))):
        raise UnsupportedOperation("it indexes dimensions that are not adjacent")
    tensors = torch.broadcast_tensors(
        *(each.nonzero().flatten() if each.dtype == torch.bool else each for _, each in given)
    )
    sizes = [x.view.shape[axis] for axis in axes]
    flat = torch.zeros_like(tensors[0])
    for size, each in zip(sizes, tensors, strict=True):
        if not bool(((each >= -size) & (each < size)).all()):
            raise UnsupportedOperation(f"an index outside a dimension of {size}")
        flat = flat * size + each % size
    if len(axes) > 1:
        x = _together(builder, x, axes[0], len(axes))
    found = taken(builder, x, axes[0], flat.flatten().tolist())
    return _split(found, axes[0], tuple(flat.shape))


def _together(builder: Builder, x: Ref, first: int, dims: int) -> Ref:
    """Merge adjacent dimensions, by a copy where memory does not allow a view."""
    shape, strides = x.view.shape, x.view.strides
    together = slice(first, first + dims)
    step = strides[first + dims - 1]
    inner = tuple(step * each for each in contiguous_strides(shape[together]))
    if View(shape[together], inner) != View(shape[together], strides[together]):
        x = in_network_order(builder, x)
        shape, strides = x.view.shape, x.view.strides
        step = strides[first + dims - 1]
    merged = (*shape[:first], count(shape[together]), *shape[first + dims :])
    steps = (*strides[:first], step, *strides[first + dims :])
    return x.seen(View(merged, steps, x.view.offset))


def _split(x: Ref, axis: int, sizes: Shape) -> Ref:
    """Split one dimension into several."""
    shape, strides, step = x.view.shape, x.view.strides, x.view.strides[axis]
    steps = tuple(step * each for each in contiguous_strides(sizes))
    return x.seen(
        View(
            (*shape[:axis], *sizes, *shape[axis + 1 :]),
            (*strides[:axis], *steps, *strides[axis + 1 :]),
            x.view.offset,
        )
    )


# Repeating: a view that shows elements again, and a copy where that has to be one dimension.


@lowers("repeat.default", "tile.default", whole=True)
def repeat(builder: Builder, sizes: Sequence[int], x: Ref, times: Sequence[int]) -> Ref:
    """The value tiled along any dimensions."""
    before = x.sizes(builder.batch)
    new = len(sizes) - len(before)
    times = [1] * (len(sizes) - len(times)) + list(times)
    if 0 in times:
        raise UnsupportedOperation("nothing is left of it")

    def spread(stand_in: Tensor) -> Tensor:
        stand_in = stand_in[(None,) * new]
        for d in reversed(range(len(sizes))):
            if times[d] > 1 and stand_in.shape[d] > 1:
                stand_in = stand_in.unsqueeze(d)
        shape: list[int] = []
        for size, again in zip((*[1] * new, *before), times, strict=True):
            shape += [again, size] if again > 1 and size > 1 else [again * size]
        return stand_in.expand(shape)

    found: Ref = reshape(builder, sizes, changed(x, spread, builder.batch))
    return found


@lowers("repeat_interleave.self_int", whole=True)
def repeat_interleave(
    builder: Builder, sizes: Sequence[int], x: Ref, times: int, dim: int | None = None, **_: Any
) -> Ref:
    """Each element repeated along one dimension."""
    if dim is None:
        raise UnsupportedOperation("it merges all dimensions")
    dims = len(x.sizes(builder.batch))
    dim %= dims
    if times < 1:
        raise UnsupportedOperation("nothing is left of it")

    def spread(stand_in: Tensor) -> Tensor:
        shape = [-1] * (dims + 1)
        shape[dim + 1] = times
        return stand_in.unsqueeze(dim + 1).expand(shape)

    found: Ref = reshape(builder, sizes, changed(x, spread, builder.batch))
    return found


@lowers("repeat_interleave.self_Tensor", views=True)
def repeat_each(
    builder: Builder, shape: Shape, x: Ref, times: Any, dim: int | None = None, **_: Any
) -> Ref:
    """Each element repeated by a constant count of its own."""
    if dim is None or not isinstance(times, Tensor):
        raise UnsupportedOperation("how often depends on the images, or it merges all dimensions")
    axis = _axis(x, dim)
    places = torch.arange(x.view.shape[axis], device=times.device)
    return taken(builder, x, axis, places.repeat_interleave(times).tolist())


@lowers("unfold.default", whole=True)
def windows(builder: Builder, sizes: Sequence[int], x: Ref, dim: int, size: int, step: int) -> Ref:
    """Windows along a dimension, which is a view where they do not overlap."""
    if step < size:
        raise UnsupportedOperation("windows that overlap")
    if dim % len(x.sizes(builder.batch)) == x.images:
        raise UnsupportedOperation("it is along the dimension of the images")
    found: Ref = changed(x, lambda stand_in: stand_in.unfold(dim, size, step), builder.batch)
    return found


@lowers("rot90.default", views=True)
def rot90(
    builder: Builder, shape: Shape, x: Ref, times: int = 1, dims: Sequence[int] = (0, 1)
) -> Ref:
    """Quarter turns: the first dimension goes towards the second."""
    first, second = (_axis(x, d) for d in dims)
    order = list(range(len(x.view.shape)))
    order[first], order[second] = second, first

    def reversed_along(x: Ref, axis: int) -> Ref:
        found = taken(builder, x, axis, range(x.view.shape[axis])[::-1])
        return Ref(found.number, found.shape, found.view, 0, x.merged)

    for _ in range(times % 4):
        x = reversed_along(x.seen(x.view.permuted(order)), first)
    return x


@lowers("take_along_dim.default", views=True)
def take_along_dim(
    builder: Builder, shape: Shape, x: Ref, index: Any, dim: int | None = None
) -> Ref:
    """Indexing by one index for all images and all other dimensions."""
    if dim is None or not isinstance(index, Tensor):
        raise UnsupportedOperation("its places depend on the images")
    axis = _axis(x, dim)
    if index.numel() != index.shape[dim]:
        raise UnsupportedOperation("places that differ between the other dimensions")
    return taken(builder, x, axis, _numbers(index))
