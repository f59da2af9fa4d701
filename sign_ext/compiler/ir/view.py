"""How the network sees a stored value: its sizes and strides in one image's memory.

A value is stored with the channels innermost. Reshaping, permuting and slicing it moves nothing as
long as the result is a strided view of that memory; operations that can read strides (products of
matrices, attention, copies) take the view, and the others have it brought into order first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sign_ext.compiler.ir.op import Shape, count


def stored_strides(shape: Shape) -> tuple[int, ...]:
    """Strides of one image of a stored value.

    Args:
        shape: (C, H, W), stored with the channels innermost; any other is contiguous.
    """
    if len(shape) == 3:
        channels, _, width = shape
        return (1, width * channels, channels)
    return contiguous_strides(shape)


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a contiguous tensor.

    Args:
        shape: its sizes.
    """
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def stored_shape(shape: Shape) -> Shape:
    """The shape in which a contiguous value of the network's is stored.

    Args:
        shape: one image's, as the network has it.

    Returns:
        The same for (F,), otherwise (F, ..., T) with the last dimension as channels.

    Example:
        >>> stored_shape((8, 49, 32))
        (32, 8, 49)
    """
    if len(shape) < 2:
        return shape
    return (shape[-1], count(shape[:-2]), shape[-2])


def as_stored(value: Tensor) -> Tensor:
    """A value in the memory order in which values are stored.

    Args:
        value: (N, C, H, W), to have the channels innermost, or another, to be contiguous.
    """
    if value.dim() == 4:
        return value.contiguous(memory_format=torch.channels_last)
    return value.contiguous()


@dataclass(frozen=True, eq=False)
class View:
    """Sizes and strides of one image, in elements. The strides of sizes of 1 say nothing.

    Attributes:
        shape: as the network has it.
        strides: in the stored value's memory.
        offset: of the first element.
    """

    shape: Shape
    strides: tuple[int, ...]
    offset: int = 0

    @classmethod
    def of_stored(cls, shape: Shape) -> View:
        """A stored value, seen as it is stored.

        Args:
            shape: (C, H, W) or another.
        """
        return cls(shape, stored_strides(shape))

    @classmethod
    def contiguous(cls, shape: Shape) -> View:
        """A contiguous value of the network's, stored in the shape `stored_shape(shape)`.

        Args:
            shape: one image's, as the network has it.
        """
        return cls(shape, contiguous_strides(shape))

    @property
    def _key(self) -> tuple[Shape, tuple[int, ...], int]:
        strides = zip(self.shape, self.strides, strict=True)
        return self.shape, tuple(stride for size, stride in strides if size != 1), self.offset

    def __eq__(self, other: object) -> bool:
        """Whether both have the same elements at the same places."""
        return isinstance(other, View) and self._key == other._key

    def __hash__(self) -> int:
        """As views are compared."""
        return hash(self._key)

    def on(self, value: Tensor) -> Tensor:
        """The view of a batch, which shares its memory if it lies as it is stored.

        Args:
            value: (N, ...), of the stored shape.

        Returns:
            (N, *shape).
        """
        value = as_stored(value)
        size = count(tuple(value.shape[1:]))
        return value.as_strided(
            (value.shape[0], *self.shape),
            (size, *self.strides),
            value.storage_offset() + self.offset,
        )

    def covers(self, size: int) -> bool:
        """Whether it has each element of a value once.

        Args:
            size: the value's number of elements.
        """
        if self.offset or count(self.shape) != size:
            return False
        reach = 1
        for stride, n in sorted(zip(self.strides, self.shape, strict=True)):
            if n != 1:
                if stride != reach:
                    return False
                reach *= n
        return True

    def outermost_first(self) -> tuple[int, ...]:
        """Its dimensions in the order of the memory, those of size 1 in their places."""
        order = [d for d, n in enumerate(self.shape) if n != 1]
        places = iter(sorted(order, key=lambda d: -self.strides[d]))
        return tuple(next(places) if n != 1 else d for d, n in enumerate(self.shape))

    def permuted(self, order: Sequence[int]) -> View:
        """The same elements with the dimensions in another order.

        Args:
            order: of each new dimension, the old one.
        """
        shape = tuple(self.shape[d] for d in order)
        return View(shape, tuple(self.strides[d] for d in order), self.offset)
