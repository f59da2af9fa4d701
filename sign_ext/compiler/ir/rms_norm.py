"""Normalisation by the root of the mean square over the channels, without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sign_ext.compiler.ir.op import Op, Residue, count
from sign_ext.ops.activation import widen


@dataclass(frozen=True, eq=False, kw_only=True)
class RMSNorm(Op):
    """x / √(mean(x²) + eps) over the channels at each position.

    Attributes:
        eps: added to the mean square.
    """

    eps: float

    kind: ClassVar[str] = "rms_norm"
    ranks: ClassVar[tuple[int, ...]] = (1, 3)

    @property
    def at_each_position(self) -> bool:
        """It only mixes channels."""
        return True

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """Normalise; keeps the input, and the inverse root at each position."""
        x = inputs[0]
        wide = widen(x)
        inverse = wide.square().mean(1, keepdim=True).add_(self.eps).rsqrt_()
        return (wide * inverse).to(x.dtype), (x, inverse)

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """(g - x · mean(g x) / (mean(x²) + eps)) / root."""
        x, inverse = kept
        g, wide = widen(cotangent), widen(x)
        along = (g * wide).mean(1, keepdim=True) * inverse.square()
        return (((g - wide * along) * inverse).to(cotangent.dtype),)

    def backward_reads(self, side: int) -> tuple[int, ...]:
        """The input."""
        return self.inputs

    def kept(self, element_size: int) -> tuple[Residue, ...]:
        """One number per position, and the input."""
        input_bytes = count(self.shape) * element_size
        return (*self.own_residues(element_size), Residue("input", input_bytes))

    def own_residues(self, element_size: int) -> tuple[Residue, ...]:
        """The numbers."""
        return (Residue("statistics", count(self.shape[1:]) * max(element_size, 4)),)
