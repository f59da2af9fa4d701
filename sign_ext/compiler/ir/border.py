"""Padding that repeats the image: reflected, replicated or circular."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.compiler.ir.op import Op

MODES = ("reflect", "replicate", "circular")


@dataclass(frozen=True, eq=False, kw_only=True)
class Border(Op):
    """The image, padded with copies of its own rows and columns.

    Attributes:
        amounts: (left, right, top, bottom), as in torch.nn.functional.pad; none is negative.
        mode: a name in `MODES`.
    """

    amounts: tuple[int, int, int, int]
    mode: str

    kind: ClassVar[str] = "border"

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """Call PyTorch's own operator."""
        return F.pad(inputs[0], self.amounts, mode=self.mode), None

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """The inner part, to which the borders are added where they come from.

        PyTorch's own input-backward adds in any order on CUDA; this one is the same every time.
        """
        left, right, top, bottom = self.amounts
        g = self._without_border(cotangent, 2, top, bottom)
        return (self._without_border(g, 3, left, right),)

    def _without_border(self, g: Tensor, dim: int, before: int, after: int) -> Tensor:
        """The cotangent of one dimension before it was padded."""
        if not before and not after:
            return g
        size = g.shape[dim] - before - after
        inner = g.narrow(dim, before, size).clone(memory_format=torch.preserve_format)
        head, tail = g.narrow(dim, 0, before), g.narrow(dim, before + size, after)
        if self.mode == "replicate":
            inner.narrow(dim, 0, 1).add_(head.sum(dim, keepdim=True))
            inner.narrow(dim, size - 1, 1).add_(tail.sum(dim, keepdim=True))
        elif self.mode == "reflect":
            inner.narrow(dim, 1, before).add_(head.flip(dim))
            inner.narrow(dim, size - 1 - after, after).add_(tail.flip(dim))
        else:
            inner.narrow(dim, size - before, before).add_(head)
            inner.narrow(dim, 0, after).add_(tail)
        return inner

    def detail(self) -> str:
        """Mode and amounts."""
        left, right, top, bottom = self.amounts
        return f"{self.mode} left {left} right {right} top {top} bottom {bottom}"
