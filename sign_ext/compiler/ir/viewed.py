"""Operations that read their operands as views, in strides, and return a value stored in order.

What is common to them is here: which input each operand is a view of, where the value lies, and how
the operands' cotangents become one for each input.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sign_ext.compiler.ir.op import Op, Residue, Shape, count
from sign_ext.compiler.ir.view import View, stored_shape, stored_strides

Own = tuple[Tensor, ...]  # tensors that an operation keeps besides inputs and output


def laid_out(shape: Shape, order: Sequence[int] | None = None) -> tuple[Shape, View]:
    """How a value that an operation computes is stored, and how the network sees it.

    Args:
        shape: one image's, as the network has it.
        order: its dimensions from the outermost in memory to the innermost; None for as they are.

    Returns:
        The stored shape and the view, whose dimensions are those of `shape`.

    Example:
        >>> laid_out((2, 5, 4), (1, 0, 2))  # heads, positions, features: as (5, 2 * 4)
        ((4, 5, 2), View(shape=(2, 5, 4), strides=(4, 8, 1), offset=0))
    """
    order = range(len(shape)) if order is None else order
    strides, step = [0] * len(shape), 1
    for dim in reversed(order):
        strides[dim] = step
        step *= shape[dim]
    stored = stored_shape(tuple(shape[dim] for dim in order)) or (1,)
    return stored, View(tuple(shape), tuple(strides))


def order_of(shape: Shape, views: Sequence[View]) -> tuple[int, ...]:
    """The order in memory of a value computed element by element: its largest operand's.

    Args:
        shape: of the value, as the network sees it.
        views: of the operands, which broadcast to it.
    """
    view = max(views, key=lambda one: (count(one.shape), len(set(one.strides))))
    lead = len(shape) - len(view.shape)
    strides = (*[0] * lead, *view.strides)
    fixed = [d for d in range(len(shape)) if d >= lead and view.shape[d - lead] == shape[d] > 1]
    by_stride = sorted((d for d in fixed if strides[d]), key=lambda d: -strides[d])
    if len(by_stride) == len([size for size in shape if size > 1]):
        ones = [d for d in range(len(shape)) if d not in by_stride]
        return (*ones, *by_stride)
    return tuple(range(len(shape)))


def store(value: Tensor, shape: Shape, view: View) -> Tensor:
    """A computed value as it is stored; a copy only where it does not lie in memory as it should.

    Args:
        value: (N, *view.shape).
        shape: stored.
        view: of one image's stored memory, all of it.
    """
    size, images = count(shape), len(value)
    wanted = (size, *view.strides)
    lies = zip(value.shape, value.stride(), wanted, strict=True)
    if all(stride == want for n, stride, want in lies if n > 1):
        strides = (size, *stored_strides(shape))
        return value.as_strided((images, *shape), strides, value.storage_offset())
    out = empty_stored(images, shape, value)
    view.on(out).copy_(value)
    return out


def empty_stored(images: int, shape: Shape, like: Tensor) -> Tensor:
    """Memory for a stored value, not initialized.

    Args:
        images: how many.
        shape: (C, H, W), which gets its channels innermost, or another.
        like: gives dtype and device.
    """
    strides = (count(shape), *stored_strides(shape))
    return torch.empty_strided((images, *shape), strides, dtype=like.dtype, device=like.device)


@lru_cache(maxsize=4096)
def covers_once(shape: Shape, views: tuple[View, ...]) -> bool:
    """Whether views of one image reach each element of its memory exactly once.

    Args:
        shape: stored.
        views: of it.
    """
    if any(0 in view.strides and _spread(view) for view in views):
        return False
    if sum(count(view.shape) for view in views) != count(shape):
        return False
    # In numpy: a step that is captured may reach this, and may read no tensor back.
    places = [view.offset + _offsets(view) for view in views]
    seen = np.bincount(np.concatenate(places), minlength=count(shape))
    return bool((seen == 1).all())


def _offsets(view: View) -> np.ndarray:
    """Where the elements of a view lie, from its first."""
    offsets = np.zeros(1, dtype=np.int64)
    for size, stride in zip(view.shape, view.strides, strict=True):
        offsets = (offsets[:, None] + stride * np.arange(size)).ravel()
    return offsets


def _spread(view: View) -> tuple[int, ...]:
    """The dimensions along which a view shows the same element again."""
    sizes = zip(view.shape, view.strides, strict=True)
    return tuple(d for d, (size, stride) in enumerate(sizes) if size > 1 and not stride)


def gather_cotangents(
    shape: Shape, views: tuple[View, ...], cotangents: Sequence[Tensor]
) -> Tensor:
    """One input's cotangent, stored, from those of the operands that are views of it.

    Args:
        shape: of the input, as it is stored.
        views: of the input, one for each operand.
        cotangents: (N, *view.shape) for each.

    Returns:
        (N, *shape). Where the views reach each element once, nothing is added up.
    """
    first = cotangents[0]
    once = covers_once(shape, views)
    if once and len(views) == 1:
        return store(first, shape, views[0])
    out = empty_stored(len(first), shape, first)
    if not once:
        out.zero_()
    for view, cotangent in zip(views, cotangents, strict=True):
        if once:
            view.on(out).copy_(cotangent)
            continue
        again = _spread(view)
        if again:
            cotangent = cotangent.sum([d + 1 for d in again], keepdim=True)
            sizes = tuple(1 if d in again else size for d, size in enumerate(view.shape))
            view = View(sizes, view.strides, view.offset)
        view.on(out).add_(cotangent)
    return out


def aligned(x: Tensor, dims: int) -> Tensor:
    """A batch whose images have so many dimensions, their own being the last.

    Args:
        x: (N, ...).
        dims: of an image.
    """
    return x.reshape(len(x), *[1] * (dims + 1 - x.dim()), *x.shape[1:])


def summed_to(g: Tensor, shape: Shape) -> Tensor:
    """A cotangent summed over what was broadcast.

    Args:
        g: (N, ...).
        shape: of an image before it was broadcast.
    """
    ones = [1] * (g.dim() - 1 - len(shape))
    return g.sum_to_size(len(g), *ones, *shape).reshape(len(g), *shape)


@dataclass(frozen=True, eq=False, kw_only=True)
class Viewed(Op):
    """An operation on views. Its value is stored in order, as `laid_out` says.

    Attributes:
        operands: for each operand, which of `inputs` it is a view of. Inputs are distinct.
        views: of each operand, in one image's memory.
        out: how the network sees the value, in one image's memory.
    """

    operands: tuple[int, ...]
    views: tuple[View, ...]
    out: View

    ranks: ClassVar[tuple[int, ...]] = (1, 3)

    @abstractmethod
    def value(self, *operands: Tensor) -> tuple[Tensor, Own]:
        """The value, (N, *out.shape) in any memory of its own, and what else is kept.

        Args:
            *operands: (N, *views[i].shape).
        """

    @abstractmethod
    def cotangent(
        self, operand: int, g: Tensor, xs: Sequence[Tensor | None], y: Tensor | None, own: Own
    ) -> Tensor:
        """One operand's cotangent, (N, *views[operand].shape).

        Args:
            operand: which.
            g: the value's, (N, *out.shape).
            xs: the operands; those that `reads` does not name may be None.
            y: the value, (N, *out.shape), where `reads` asks for it.
            own: what `value` kept.
        """

    def reads(self, operand: int) -> tuple[tuple[int, ...], bool]:
        """The operands that the cotangent of one needs, and whether it needs the value."""
        return (), False

    def cotangents(
        self,
        operands: Sequence[int],
        g: Tensor,
        xs: Sequence[Tensor | None],
        y: Tensor | None,
        own: Own,
    ) -> list[Tensor]:
        """The cotangents of several operands; the arguments are those of `cotangent`."""
        return [self.cotangent(operand, g, xs, y, own) for operand in operands]

    def of_input(self, side: int) -> tuple[int, ...]:
        """The operands that are views of an input."""
        return tuple(o for o, number in enumerate(self.operands) if number == side)

    def run(self, *inputs: Tensor) -> tuple[Tensor, Own]:
        """The stored value, and what else is kept.

        Args:
            *inputs: (N, *in_shapes[i]).
        """
        pairs = zip(self.operands, self.views, strict=True)
        value, own = self.value(*[view.on(inputs[number]) for number, view in pairs])
        return store(value, self.shape, self.out), own

    def pull_back(
        self, side: int, g: Tensor, inputs: Sequence[Tensor | None], y: Tensor | None, own: Own
    ) -> Tensor:
        """One input's cotangent, stored.

        Args:
            side: which input.
            g: the value's, stored.
            inputs: stored; those that `backward_reads` does not name may be None.
            y: the value, stored, where it names that.
            own: what `run` kept.
        """
        xs = []
        for number, view in zip(self.operands, self.views, strict=True):
            x = inputs[number]
            xs.append(None if x is None else view.on(x))
        wanted = self.of_input(side)
        seen = None if y is None else self.out.on(y)
        found = self.cotangents(wanted, self.out.on(g), xs, seen, own)
        return gather_cotangents(self.in_shapes[side], tuple(self.views[o] for o in wanted), found)

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The stored value; keeps what `reads` names and what is its own."""
        stored = [_in_order(x) for x in inputs]
        y, own = self.run(*stored)
        return y, (stored, y, own)

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """Each input's from those of its operands."""
        # What is folded into the cotangent of ones keeps nothing.
        inputs, y, own = kept or ([None] * len(self.inputs), None, ())
        g = _in_order(cotangent)
        return tuple(self.pull_back(side, g, inputs, y, own) for side in range(len(self.inputs)))

    def backward_reads(self, side: int) -> tuple[int, ...]:
        """What the cotangents of this input's operands need."""
        numbers: list[int] = []
        for operand in self.of_input(side):
            others, output = self.reads(operand)
            numbers += [self.inputs[self.operands[other]] for other in others]
            numbers += [self.output] * output
        return tuple(dict.fromkeys(numbers))

    def kept(self, element_size: int) -> tuple[Residue, ...]:
        """The inputs and the output that are read again, and what is its own."""
        read = {n for side in range(len(self.inputs)) for n in self.backward_reads(side)}
        found = list(self.own_residues(element_size))
        inputs = zip(self.inputs, self.in_shapes, strict=True)
        elements = [count(shape) for number, shape in inputs if number in read]
        if elements:
            kind = "input" if len(elements) == 1 else "factors"
            found.append(Residue(kind, sum(elements) * element_size))
        if self.output in read:
            found.append(Residue("output", count(self.shape) * element_size))
        return tuple(found)

    def backward_workspace(self, element_size: int) -> int:
        """The operands' cotangents, where they are gathered into that of an input."""
        sizes = [0]
        for side, shape in enumerate(self.in_shapes):
            views = tuple(self.views[o] for o in self.of_input(side))
            if len(views) > 1 or not covers_once(shape, views):
                sizes.append(sum(count(view.shape) for view in views))
        return max(sizes) * element_size


def _in_order(x: Tensor) -> Tensor:
    """A value as it is stored: with the channels innermost where it is an image."""
    if x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous()
