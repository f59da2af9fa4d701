"""One of two values at each place, by a comparison of values that depend on the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sign_ext.compiler.ir.op import Residue, Shape, count
from sign_ext.compiler.ir.viewed import Own, Viewed, aligned, summed_to

COMPARISONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gt": torch.gt,
    "ge": torch.ge,
    "lt": torch.lt,
    "le": torch.le,
    "eq": torch.eq,
    "ne": torch.ne,
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Choose(Viewed):
    """a where p ∘ q holds, b elsewhere. Operands are p, then those of q, a and b without constants.

    Only a and b get a cotangent. Between forward and backward it keeps the mask, a byte an element.

    Attributes:
        comparison: a name in `COMPARISONS`.
        bound: q where it is a constant.
        first: a where it is a constant.
        second: b where it is a constant.
    """

    comparison: str
    bound: Tensor | None = None
    first: Tensor | None = None
    second: Tensor | None = None

    kind: ClassVar[str] = "choose"

    @property
    def compared(self) -> int:
        """How many operands are compared; the rest are chosen from."""
        return 1 if self.bound is not None else 2

    @property
    def mask_shape(self) -> Shape:
        """One image's shape of the mask."""
        shapes = [view.shape for view in self.views[: self.compared]]
        if self.bound is not None:
            shapes.append(tuple(self.bound.shape))
        return tuple(torch.broadcast_shapes(*shapes))

    def value(self, *operands: Tensor) -> tuple[Tensor, Own]:
        """Compare and choose; keep the mask."""
        dims, like = len(self.out.shape), operands[0]
        of_mask = len(self.mask_shape)
        compared = [aligned(x, of_mask) for x in operands[: self.compared]]
        if self.bound is not None:
            compared.append(self.bound.to(like.dtype))
        mask = COMPARISONS[self.comparison](*compared)
        chosen = [aligned(x, dims) for x in operands[self.compared :]]
        for place, constant in ((0, self.first), (1, self.second)):
            if constant is not None:
                chosen.insert(place, constant.to(like.dtype))
        first, second = chosen
        found = torch.where(aligned(mask, dims), first, second)
        return found.expand(len(like), *self.out.shape), (mask,)

    def of_input(self, side: int) -> tuple[int, ...]:
        """Only operands that are chosen from: comparisons have no derivative."""
        return tuple(o for o in super().of_input(side) if o >= self.compared)

    def pull_back(
        self, side: int, g: Tensor, inputs: Sequence[Tensor | None], y: Tensor | None, own: Own
    ) -> Tensor:
        """Zeros for an input that is only compared."""
        if self.of_input(side):
            return super().pull_back(side, g, inputs, y, own)
        shape = (len(g), *self.in_shapes[side])
        layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
        return torch.empty(shape, dtype=g.dtype, device=g.device, memory_format=layout).zero_()

    def cotangent(
        self, operand: int, g: Tensor, xs: Sequence[Tensor | None], y: Tensor | None, own: Own
    ) -> Tensor:
        """The cotangent where this operand was chosen, 0 elsewhere."""
        mask = aligned(own[0], len(self.out.shape))
        is_first = operand == self.compared and self.first is None
        found = torch.where(mask, g, 0) if is_first else torch.where(mask, 0, g)
        return summed_to(found, self.views[operand].shape)

    def own_residues(self, element_size: int) -> tuple[Residue, ...]:
        """The mask, as bools."""
        return (Residue("mask", count(self.mask_shape)),)

    def detail(self) -> str:
        """The comparison, and what is compared."""
        return f"{self.comparison} constant" if self.bound is not None else self.comparison
