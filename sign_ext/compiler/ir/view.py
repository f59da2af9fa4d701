"""How the network sees a stored value: its sizes and strides in one image's memory.

A value is stored with the channels innermost. Reshaping, permuting and slicing it moves nothing as
long as the result is a strided view of that memory; operations that can read strides (products of
matrices, attention, copies) take the view, and the others have it brought into order first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sign_ext.compiler.ir.op import Shape, count

_IMAGES = 3  # of the stand-in on which view operations are tried


def stored_strides(shape: Shape) -> tuple[int, ...]:
    """Strides of one image of a stored value.

    Args:
        shape: (C, H, W), stored with the channels innermost; any other is contiguous.
    """
    if len(shape) == 3:
        channels, _, width = shape
        return (1, width * channels, channels)
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def stored_shape(shape: Shape) -> Shape:
    """The shape in which a contiguous value of the network's is stored, the last dimension innermost.

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


@dataclass(frozen=True)
class View:
    """Sizes and strides of one image, in elements.

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
        strides = tuple(count(shape[i + 1 :]) for i in range(len(shape)))
        return cls(shape, strides)

    def on(self, value: Tensor) -> Tensor:
        """The view of a batch, which shares its memory.

        Args:
            value: (N, ...), as it is stored.

        Returns:
            (N, *shape).
        """
        size = count(tuple(value.shape[1:]))
        return value.as_strided(
            (len(value), *self.shape), (size, *self.strides), value.storage_offset() + self.offset
        )

    def then(self, change: Callable[[Tensor], Tensor]) -> View | None:
        """The view after a view operation, or None where that has to copy.

        Args:
            change: of (N, *shape), to (N, ...): a permutation, a reshape, a selection.
        """
        room = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        step = room + 1  # between images: what merges them with another dimension cannot be a view
        memory = torch.empty(_IMAGES * step + 1, device="meta")
        before = memory.as_strided((_IMAGES, *self.shape), (step + 1, *self.strides), self.offset)
        try:
            after = change(before)
        except RuntimeError:
            return None
        if after.untyped_storage()._cdata != memory.untyped_storage()._cdata:
            return None
        if not after.dim() or after.shape[0] != _IMAGES or after.stride(0) != step + 1:
            return None
        return View(tuple(after.shape[1:]), tuple(after.stride()[1:]), int(after.storage_offset()))
