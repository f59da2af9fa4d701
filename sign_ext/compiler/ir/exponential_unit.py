"""ELU, SELU and CELU: one function with three parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sign_ext.compiler.ir.op import Op, Residue, count

_aten = torch.ops.aten


@dataclass(frozen=True, eq=False, kw_only=True)
class ExponentialUnit(Op):
    """scale · x where x > 0, else scale · alpha · (exp(input_scale · x) - 1).

    Attributes:
        alpha: not negative, so that the derivative follows from the output.
        scale: of the whole.
        input_scale: of x where x ≤ 0.
    """

    alpha: float = 1.0
    scale: float = 1.0
    input_scale: float = 1.0

    kind: ClassVar[str] = "elu"

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The value, which is kept."""
        value = _aten.elu(inputs[0], self.alpha, self.scale, self.input_scale)
        return value, value

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """Computed from the output."""
        numbers = (self.alpha, self.scale, self.input_scale)
        return (_aten.elu_backward(cotangent, *numbers, True, kept),)

    def backward_reads(self, side: int) -> tuple[int, ...]:
        """The output."""
        return (self.output,)

    def kept(self, element_size: int) -> tuple[Residue, ...]:
        """The output."""
        return (Residue("output", count(self.shape) * element_size),)

    def detail(self) -> str:
        """Its parameters that are not 1."""
        numbers = {"alpha": self.alpha, "scale": self.scale, "input_scale": self.input_scale}
        return " ".join(f"{name} {number:g}" for name, number in numbers.items() if number != 1)
