"""Values of a program as the network sees them: a stored value, and where its dimensions lie in it.

The network's tensor has a dimension for the images, mostly the first. Views of it move that, or
merge it with the one after it, (N · windows, T, F), or the one before it, (T · N, F). Neither moves
anything in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor

from sign_ext.compiler.ir.op import Shape, count
from sign_ext.compiler.ir.view import View
from sign_ext.errors import UnsupportedOperation

_FAR = 2**40  # the images' stride in stand-ins, unlike any other


@dataclass(frozen=True)
class Ref:
    """A value of the program, and how the network sees it.

    Attributes:
        number: the value's.
        shape: one image's, as it is stored.
        view: one image's dimensions in the network's order.
        images: how many of them are before the images' dimension.
        merged: whether the network has the images and the dimension after them as one.
        images_last: whether that has the images last, as in (T · N, F): those of one position
            follow each other.
    """

    number: int
    shape: Shape
    view: View = None  # type: ignore[assignment]  # as it is stored
    images: int = 0
    merged: bool = False
    images_last: bool = False

    def __post_init__(self) -> None:
        """Seen as it is stored, unless a view is given."""
        if self.view is None:
            object.__setattr__(self, "view", View.of_stored(self.shape))

    @property
    def is_plain(self) -> bool:
        """Whether the network sees it as it is stored."""
        first = not self.images and not self.merged
        return first and self.view == View.of_stored(self.shape)

    @property
    def covers(self) -> bool:
        """Whether the network sees each stored element once."""
        return self.view.covers(count(self.shape))

    def sizes(self, images: int) -> tuple[int, ...]:
        """The shape of the network's tensor.

        Args:
            images: how many.
        """
        shape, at = self.view.shape, self.images
        if self.merged:
            return (*shape[:at], images * shape[at], *shape[at + 1 :])
        return (*shape[:at], images, *shape[at:])

    def axis(self, dim: int) -> int:
        """The dimension of `view` that is a dimension of the network's tensor.

        Args:
            dim: the network's, also counted from the end.

        Raises:
            UnsupportedOperation: it is that of the images.
        """
        dims = len(self.view.shape) + (not self.merged)
        dim %= dims
        if dim == self.images:
            raise UnsupportedOperation("it is along the dimension of the images")
        return dim if self.merged or dim < self.images else dim - 1

    def seen(self, view: View) -> Ref:
        """The same value, seen in another way, with the images in the same place.

        Args:
            view: one image's dimensions.
        """
        return replace(self, view=view)

    def like(self, other: Ref) -> Ref:
        """The same value with its dimensions as those of another.

        Args:
            other: stored in the same shape.
        """
        return replace(other, number=self.number)


def changed(x: Ref, change: Callable[[Tensor], Any], images: int) -> Any:
    """A value after an operation that only changes sizes and strides of what it is given.

    Args:
        x: the value.
        change: a permutation, a selection, …, which returns a tensor or several.
        images: how many were recorded, more than one.

    Returns:
        A `Ref`, or a tuple of them.

    Raises:
        UnsupportedOperation: it takes the images apart.
    """
    sizes = x.sizes(images)
    inner = list(x.view.strides)
    inner[x.images : x.images + x.merged] = [_FAR]
    before = torch.empty_strided(sizes, inner, device="meta")
    after = change(before)
    if isinstance(after, Tensor):
        return _seen(x, before, after)
    return tuple(_seen(x, before, each) for each in after)


def _seen(x: Ref, before: Tensor, after: Tensor) -> Ref:
    """A view of a stand-in as one of the value that it stands for."""
    at = [d for d in range(after.dim()) if after.stride(d) == _FAR]
    whole = before.shape[x.images]
    if after.untyped_storage()._cdata != before.untyped_storage()._cdata:
        raise UnsupportedOperation("it copies")
    offset = after.storage_offset()
    if len(at) != 1 or after.shape[at[0]] != whole or offset >= _FAR:
        raise UnsupportedOperation("it selects among the images")
    shape, strides = list(after.shape), list(after.stride())
    kept = [(x.view.shape[x.images], x.view.strides[x.images])] if x.merged else []
    shape[at[0] : at[0] + 1] = [n for n, _ in kept]
    strides[at[0] : at[0] + 1] = [s for _, s in kept]
    view = View(tuple(shape), tuple(strides), x.view.offset + int(offset))
    return replace(x, view=view, images=at[0])


@dataclass(frozen=True)
class _Atom:
    """A part of a dimension: so many elements, so far apart; a stride of None is of the images."""

    size: int
    stride: int | None


def _atoms(x: Ref, images: int) -> list[_Atom]:
    """The dimensions of the network's tensor, those that follow each other in memory as one."""
    dims = [_Atom(n, s) for n, s in zip(x.view.shape, x.view.strides, strict=True)]
    dims.insert(x.images + x.images_last, _Atom(images, None))
    found: list[_Atom] = []
    for atom in dims:
        if atom.size == 1 and atom.stride is not None:
            continue
        last = found[-1] if found else None
        if (
            last is not None
            and last.stride is not None
            and atom.stride is not None
            and last.stride == atom.size * atom.stride
        ):
            found[-1] = _Atom(last.size * atom.size, atom.stride)
        else:
            found.append(atom)
    return found


def grouped(x: Ref, sizes: Sequence[int], images: int) -> list[list[_Atom]] | None:
    """What each dimension of another shape consists of; None where it cuts one of x across.

    Args:
        x: a value.
        sizes: of the network's tensor after a reshape.
        images: how many were recorded.
    """
    atoms = _atoms(x, images)[::-1]
    groups: list[list[_Atom]] = []
    for size in sizes:
        group: list[_Atom] = []
        while size > 1:
            if not atoms:
                return None
            atom = atoms.pop()
            if size % atom.size == 0:
                group.append(atom)
                size //= atom.size
            elif atom.stride is not None and atom.size % size == 0:
                rest = atom.size // size
                group.append(_Atom(size, atom.stride * rest))
                atoms.append(_Atom(rest, atom.stride))
                size = 1
            else:
                return None
        groups.append(group)
    return None if atoms else groups


def reshaped(x: Ref, sizes: Sequence[int], images: int) -> Ref | None:
    """A value in another shape; None where that has to copy.

    Args:
        x: the value.
        sizes: of the network's tensor, the images among them.
        images: how many were recorded.

    Raises:
        UnsupportedOperation: it takes the images apart, or merges them with what is before and
            after them.
    """
    groups = grouped(x, sizes, images)
    if groups is None:
        return None
    shape: list[int] = []
    strides: list[int] = []
    at, merged, last = -1, False, False
    for size, group in zip(sizes, groups, strict=True):
        inner = [atom for atom in group if atom.stride is not None]
        if len(inner) < len(group):
            at, merged = len(shape), bool(inner)
            last = merged and group[-1].stride is None
            if not last and group[0].stride is not None:
                raise UnsupportedOperation("it merges the images with what is around them")
            if not merged:
                continue
            size = prod(atom.size for atom in inner)
        for first, second in pairwise(inner):
            if first.stride != second.size * (second.stride or 0):
                return None
        shape.append(size)
        strides.append(inner[-1].stride or 0 if inner else 0)
    if at < 0:
        raise UnsupportedOperation("it takes the images apart")
    view = View(tuple(shape), tuple(strides), x.view.offset)
    return Ref(x.number, x.shape, view, at, merged, last)
