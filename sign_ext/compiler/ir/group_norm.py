"""Group normalisation without its affine map, which is a pointwise operation after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sign_ext.compiler.ir.op import Op, Residue, count


@dataclass(frozen=True, eq=False, kw_only=True)
class GroupNorm(Op):
    """(x - mean) / deviation over each group of channels of each image.

    Attributes:
        groups: how many; as many as channels for instance normalisation.
        eps: added to the variance.
    """

    groups: int
    eps: float

    kind: ClassVar[str] = "group_norm"

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """Normalise; keeps the input, the means and the inverse deviations."""
        x = inputs[0]
        value, mean, inverse = torch.native_group_norm(
            self._near_zero(x), None, None, len(x), *self._sizes(), self.groups, self.eps
        )
        return value, (x, mean, inverse)

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """Call PyTorch's own operator."""
        x, mean, inverse = kept
        found = torch.ops.aten.native_group_norm_backward(
            cotangent,
            self._near_zero(x),
            mean,
            inverse,
            None,
            len(x),
            *self._sizes(),
            self.groups,
            [True, False, False],
        )
        return (found[0],)

    def _near_zero(self, x: Tensor) -> Tensor:
        """Each group minus one of its elements, which changes no result but the means.

        With the channels innermost, PyTorch's operators on a CPU sum squares and products as they
        are: where a group's mean is large beside its deviation, these cancel and little is left.
        """
        if x.device.type != "cpu" or x.dim() != 4 or x.is_contiguous():
            return x
        size = self.shape[0] // self.groups
        first = x[:, ::size, :1, :1]
        first = first if size == 1 else first.repeat_interleave(size, 1)
        # In new memory: where a size is 1, older versions of PyTorch refuse other strides that fit.
        out = torch.empty_like(x, memory_format=torch.channels_last)
        return torch.sub(x, first, out=out)

    def workspace(self, element_size: int) -> int:
        """The temporaries of `_near_zero`."""
        return count(self.shape) * element_size

    def _sizes(self) -> tuple[int, int]:
        """Channels and positions."""
        return self.shape[0], count(self.shape[1:])

    def backward_reads(self, side: int) -> tuple[int, ...]:
        """The input."""
        return self.inputs

    def kept(self, element_size: int) -> tuple[Residue, ...]:
        """Two numbers per group, and the input."""
        return (
            *self.own_residues(element_size),
            Residue("input", count(self.shape) * element_size),
        )

    def own_residues(self, element_size: int) -> tuple[Residue, ...]:
        """The numbers."""
        return (Residue("statistics", 2 * self.groups * max(element_size, 4)),)

    def detail(self) -> str:
        """The number of groups."""
        return f"{self.groups} groups"
