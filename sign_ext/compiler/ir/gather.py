"""The positions of an image in another order: rolling, windows, or both at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sign_ext.compiler.ir.op import Op, count
from sign_ext.compiler.ir.view import as_stored, stored_strides


@dataclass(frozen=True, eq=False, kw_only=True)
class Gather(Op):
    """Position p of the value is position places[p] of the input; channels stay together.

    Attributes:
        places: each position once, in the order in which they are stored.
    """

    places: tuple[int, ...]

    kind: ClassVar[str] = "gather"

    @property
    def places_moved(self) -> tuple[int, ...]:
        """The positions that are given."""
        return self.places

    @property
    def back(self) -> tuple[int, ...]:
        """The inverse permutation, for the cotangent."""
        found = [0] * len(self.places)
        for place, source in enumerate(self.places):
            found[source] = place
        return tuple(found)

    def taken(self, value: Tensor, index: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Positions of a value in the order of an index.

        Args:
            value: (N, C, H, W).
            index: int64, one for each position.
            shape: one image's of the result.
        """
        rows = as_stored(value).movedim(1, -1).reshape(len(value), len(self.places), shape[0])
        found = rows.index_select(1, index)
        return found.as_strided((len(value), *shape), (count(shape), *stored_strides(shape)))

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """Copy the positions."""
        index = torch.tensor(self.places, device=inputs[0].device)
        return self.taken(inputs[0], index, self.shape), None

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """Copy them back."""
        index = torch.tensor(self.back, device=cotangent.device)
        return (self.taken(cotangent, index, self.in_shapes[0]),)

    def detail(self) -> str:
        """The number of positions."""
        return f"{len(self.places)} positions"
