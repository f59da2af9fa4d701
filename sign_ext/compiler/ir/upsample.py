"""Nearest-neighbour interpolation to a whole multiple of the size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from sign_ext.compiler.ir.op import Op
from sign_ext.ops.layout import Pair


@dataclass(frozen=True, eq=False, kw_only=True)
class Upsample(Op):
    """Each pixel repeated.

    Attributes:
        factor: (vertical, horizontal).
    """

    factor: Pair

    kind: ClassVar[str] = "upsample"

    @property
    def averages_positions(self) -> bool:
        """One position, repeated."""
        return True

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The larger image."""
        return F.interpolate(inputs[0], size=self.shape[1:], mode="nearest"), None

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """The sum over each pixel's copies."""
        return (F.avg_pool2d(cotangent, self.factor, divisor_override=1),)

    def detail(self) -> str:
        """The factors."""
        return f"{self.factor[0]}×{self.factor[1]}"
