"""Adaptive maximum pooling whose windows differ in size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.compiler.ir.op import Op, Residue, count


@dataclass(frozen=True, eq=False, kw_only=True)
class AdaptiveMaximum(Op):
    """The maximum over each window. There are at most as many as rows and as columns."""

    kind: ClassVar[str] = "adaptive_maximum"

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The maxima; keeps their positions, which fit into 32 bits."""
        size = (self.shape[1], self.shape[2])
        value, index = F.adaptive_max_pool2d_with_indices(inputs[0], size)
        return value, index.to(torch.int32)

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """Each cotangent at its maximum's position.

        Windows that are not neighbours have no pixel in common. So of every second window, in both
        directions, no two are added to one pixel, and the order of sums is always the same.
        """
        n, (channels, height, width) = len(cotangent), self.in_shapes[0]
        flat = cotangent.new_zeros(n, channels, height * width)
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            index = kept[:, :, row::2, column::2].flatten(2).to(torch.int64)
            sums = flat.gather(2, index) + cotangent[:, :, row::2, column::2].flatten(2)
            flat.scatter_(2, index, sums)
        return (flat.reshape(n, channels, height, width),)

    def kept(self, element_size: int) -> tuple[Residue, ...]:
        """Four bytes for each maximum."""
        return (Residue("pool index", 4 * count(self.shape)),)

    def own_residues(self, element_size: int) -> tuple[Residue, ...]:
        """The positions."""
        return self.kept(element_size)
