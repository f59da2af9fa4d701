"""Layer normalisation over the channels at each position, without its affine map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sign_ext.compiler.ir.op import Op, Residue, count


@dataclass(frozen=True, eq=False, kw_only=True)
class ChannelNorm(Op):
    """(x - mean) / deviation over the channels at each position of an image.

    Attributes:
        eps: added to the variance.
    """

    eps: float

    kind: ClassVar[str] = "channel_norm"

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """Normalise; keeps the input, the means and the inverse deviations."""
        rows = inputs[0].permute(0, 2, 3, 1)
        value, mean, inverse = torch.native_layer_norm(rows, self.shape[:1], None, None, self.eps)
        return value.permute(0, 3, 1, 2), (inputs[0], mean, inverse)

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """By PyTorch's own operator."""
        x, mean, inverse = kept
        found = torch.ops.aten.native_layer_norm_backward(
            cotangent.permute(0, 2, 3, 1).contiguous(),
            x.permute(0, 2, 3, 1).contiguous(),
            self.shape[:1],
            mean,
            inverse,
            None,
            None,
            [True, False, False],
        )
        return (found[0].permute(0, 3, 1, 2),)

    def backward_reads(self, side: int) -> tuple[int, ...]:
        """The input."""
        return self.inputs

    def kept(self, element_size: int) -> tuple[Residue, ...]:
        """Two numbers a position, and the input."""
        input_bytes = count(self.shape) * element_size
        return (*self.own_residues(element_size), Residue("input", input_bytes))

    def own_residues(self, element_size: int) -> tuple[Residue, ...]:
        """The numbers."""
        return (Residue("statistics", 2 * count(self.shape[1:]) * max(element_size, 4)),)
