"""Sums of everything up to an element, along one dimension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sign_ext.compiler.ir.viewed import Own, Viewed


@dataclass(frozen=True, eq=False, kw_only=True)
class CumulativeSum(Viewed):
    """Element i of the value is the sum of elements 0 … i of the operand.

    Attributes:
        dim: counted from the last, which is -1.
    """

    dim: int

    kind: ClassVar[str] = "cumulative_sum"

    def value(self, *operands: Tensor) -> tuple[Tensor, Own]:
        """By PyTorch's operator."""
        return operands[0].cumsum(self.dim), ()

    def cotangent(
        self, operand: int, g: Tensor, xs: Sequence[Tensor | None], y: Tensor | None, own: Own
    ) -> Tensor:
        """The sum of everything from an element on."""
        return g.flip(self.dim).cumsum(self.dim).flip(self.dim)

    def detail(self) -> str:
        """Over how many."""
        return f"over {self.out.shape[self.dim]}"
