"""PReLU: a leaky ReLU with a slope for each channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sign_ext.compiler.ir.op import Op, Residue, count
from sign_ext.compiler.ir.pointwise import per_channel


@dataclass(frozen=True, eq=False, kw_only=True)
class PReLU(Op):
    """x where x > 0, else slopes · x.

    Attributes:
        slopes: (C,), of any sign.
    """

    slopes: Tensor

    kind: ClassVar[str] = "prelu"

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The value; keeps the input, whose sign the output's is not where a slope is negative."""
        x = inputs[0]
        return torch.prelu(x, self.slopes.to(x.dtype)), x

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """Scaled where the input was not positive."""
        slopes = per_channel(self.slopes, cotangent).to(cotangent.dtype)
        return (torch.where(kept > 0, cotangent, cotangent * slopes),)

    def backward_reads(self, side: int) -> tuple[int, ...]:
        """The input."""
        return self.inputs

    def kept(self, element_size: int) -> tuple[Residue, ...]:
        """The input."""
        return (Residue("input", count(self.shape) * element_size),)

    def workspace(self, element_size: int) -> int:
        """Backward: the scaled cotangent, and where the input is positive."""
        return count(self.shape) * (element_size + 1)
