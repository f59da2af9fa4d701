"""Cumulative sums along one dimension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sign_ext.compiler.ir.viewed import Own, Viewed


def _sums(x: Tensor, dim: int) -> Tensor:
    """x.cumsum(dim), whose bits are the same each time.

    CUDA's scan of a single row adds in an order that varies; those of several rows do not.
    """
    if x.is_cuda and x.numel() == x.shape[dim]:
        return torch.stack((x, x)).cumsum(dim)[0]
    return x.cumsum(dim)


@dataclass(frozen=True, eq=False, kw_only=True)
class CumulativeSum(Viewed):
    """Element i of the value is the sum of elements 0 … i of the operand.

    Attributes:
        dim: counted from the last, which is -1.
    """

    dim: int

    kind: ClassVar[str] = "cumulative_sum"

    def value(self, *operands: Tensor) -> tuple[Tensor, Own]:
        """Call PyTorch's operator."""
        return _sums(operands[0], self.dim), ()

    def cotangent(
        self, operand: int, g: Tensor, xs: Sequence[Tensor | None], y: Tensor | None, own: Own
    ) -> Tensor:
        """The cumulative sum in reverse."""
        return _sums(g.flip(self.dim), self.dim).flip(self.dim)

    def detail(self) -> str:
        """The number of elements along the dimension."""
        return f"over {self.out.shape[self.dim]}"
