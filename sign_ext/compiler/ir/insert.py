"""Values put between constants: class tokens, coordinates as channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sign_ext.compiler.ir.op import Op


@dataclass(frozen=True, eq=False, kw_only=True)
class Insert(Op):
    """A constant, with the inputs added to spans of it.

    Attributes:
        constant: (1, *shape), the same for all images.
        dim: of (N, C, H, W), along which the spans lie.
        starts: the first place of each input's span.
    """

    constant: Tensor
    dim: int
    starts: tuple[int, ...]

    kind: ClassVar[str] = "insert"

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """Copy the constant, add the inputs."""
        shape = (len(inputs[0]), *self.shape)
        layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
        value = torch.empty(
            shape, dtype=inputs[0].dtype, device=inputs[0].device, memory_format=layout
        )
        value.copy_(self.constant)
        for x, start in zip(inputs, self.starts, strict=True):
            value.narrow(self.dim, start, x.shape[self.dim]).add_(x)
        return value, None

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """Each input's span."""
        sizes = [shape[self.dim - 1] for shape in self.in_shapes]
        return tuple(
            cotangent.narrow(self.dim, start, size)
            for start, size in zip(self.starts, sizes, strict=True)
        )

    def detail(self) -> str:
        """Where the inputs start."""
        return f"dimension {self.dim} at {', '.join(map(str, self.starts))}"
