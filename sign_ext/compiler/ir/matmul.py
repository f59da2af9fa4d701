"""Products of matrices of which at least one depends on the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sign_ext.compiler.ir.op import count
from sign_ext.compiler.ir.viewed import Own, Viewed, aligned, summed_to


@dataclass(frozen=True, eq=False, kw_only=True)
class MatMul(Viewed):
    """a @ b over the last two dimensions, those in front broadcast.

    Attributes:
        factor: one of the two, where it is a constant; None where both are operands.
        factor_first: whether the constant is a.
    """

    factor: Tensor | None = None
    factor_first: bool = False

    kind: ClassVar[str] = "matmul"

    def reads(self, operand: int) -> tuple[tuple[int, ...], bool]:
        """The other operand."""
        return (() if self.factor is not None else (1 - operand,)), False

    def value(self, *operands: Tensor) -> tuple[Tensor, Own]:
        """The product."""
        operands = tuple(aligned(x, len(self.out.shape)) for x in operands)
        if self.factor is None:
            return operands[0] @ operands[1], ()
        factor = self.factor.to(operands[0].dtype)
        return (factor @ operands[0] if self.factor_first else operands[0] @ factor), ()

    def cotangent(
        self, operand: int, g: Tensor, xs: Sequence[Tensor | None], y: Tensor | None, own: Own
    ) -> Tensor:
        """The product with the other one transposed, summed over what was broadcast."""
        if self.factor is None:
            x = xs[1 - operand]
            assert x is not None
            other = aligned(x, len(self.out.shape)).transpose(-1, -2)
        else:
            other = self.factor.to(g.dtype).transpose(-1, -2)
        first = operand == 0 if self.factor is None else not self.factor_first
        found = g @ other if first else other @ g
        return summed_to(found, self.views[operand].shape)

    def flops(self) -> int:
        """A multiply-add for each element of the value and of a row."""
        inner = self.views[0].shape[-2 if self.factor_first else -1]
        return 2 * count(self.out.shape) * inner

    def detail(self) -> str:
        """The sizes, and which factor is a constant."""
        sizes = [view.shape[-2:] for view in self.views]
        if self.factor is not None:
            sizes.insert(0 if self.factor_first else 1, tuple(self.factor.shape[-2:]))
        return " · ".join("×".join(map(str, size)) for size in sizes)
