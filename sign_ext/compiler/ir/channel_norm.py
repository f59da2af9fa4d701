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

    @property
    def at_each_position(self) -> bool:
        """It only mixes channels."""
        return True

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """Normalise; keeps the input, the means and the inverse deviations."""
        rows = _channels_to(inputs[0], -1)
        value, mean, inverse = torch.native_layer_norm(rows, self.shape[:1], None, None, self.eps)
        return _channels_to(value, 1), (inputs[0], mean, inverse)

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """Call PyTorch's own operator."""
        x, mean, inverse = kept
        found = torch.ops.aten.native_layer_norm_backward(
            _channels_to(cotangent, -1).contiguous(),
            _channels_to(x, -1).contiguous(),
            self.shape[:1],
            mean,
            inverse,
            None,
            None,
            [True, False, False],
        )
        return (_channels_to(found[0], 1),)

    def backward_reads(self, side: int) -> tuple[int, ...]:
        """The input."""
        return self.inputs

    def kept(self, element_size: int) -> tuple[Residue, ...]:
        """Two numbers per position, and the input."""
        input_bytes = count(self.shape) * element_size
        return (*self.own_residues(element_size), Residue("input", input_bytes))

    def own_residues(self, element_size: int) -> tuple[Residue, ...]:
        """The numbers."""
        return (Residue("statistics", 2 * count(self.shape[1:]) * max(element_size, 4)),)


def _channels_to(x: Tensor, place: int) -> Tensor:
    """The second dimension moved to the end, or back."""
    return x.movedim(-1 if place == 1 else 1, place)
