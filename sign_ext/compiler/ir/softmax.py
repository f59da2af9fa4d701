"""Softmax and its logarithm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sign_ext.compiler.ir.viewed import Own, Viewed

_aten = torch.ops.aten


@dataclass(frozen=True, eq=False, kw_only=True)
class Softmax(Viewed):
    """Softmax over one dimension, from the value of which its derivative follows.

    Attributes:
        dim: counted from the last, which is -1.
        log: whether the logarithm is the value.
    """

    dim: int = -1
    log: bool = False

    kind: ClassVar[str] = "softmax"

    def reads(self, operand: int) -> tuple[tuple[int, ...], bool]:
        """The cotangent needs the value."""
        return (), True

    def value(self, *operands: Tensor) -> tuple[Tensor, Own]:
        """Call PyTorch's operator."""
        function = torch.log_softmax if self.log else torch.softmax
        return function(operands[0], self.dim), ()

    def cotangent(
        self, operand: int, g: Tensor, xs: Sequence[Tensor | None], y: Tensor | None, own: Own
    ) -> Tensor:
        """Call PyTorch's operator."""
        assert y is not None
        name = "_log_softmax_backward_data" if self.log else "_softmax_backward_data"
        found: Tensor = getattr(_aten, name)(g, y, self.dim, y.dtype)
        return found

    def detail(self) -> str:
        """The number of elements along the dimension."""
        return f"{'logarithm ' * self.log}over {self.out.shape[self.dim]}"
