"""Functions of single elements whose derivative follows from their input or from their value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.compiler.ir.op import Op, Residue, count


class Function(NamedTuple):
    """A function of one element and its derivative.

    Attributes:
        value: (x, *parameters) → the value.
        cotangent: (g, kept, *parameters) → x's.
        keeps_output: whether `kept` is the value rather than the input.
    """

    value: Callable[..., Tensor]
    cotangent: Callable[..., Tensor]
    keeps_output: bool = False


def _power(g: Tensor, x: Tensor, exponent: float) -> Tensor:
    return x.pow(exponent - 1).mul_(exponent).mul_(g) if exponent else torch.zeros_like(g)


def _inside(g: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """PyTorch's clamp passes the cotangent at the bounds."""
    return g * ((x >= low) & (x <= high))


def _flat(g: Tensor, x: Tensor, *_: float) -> Tensor:
    """The derivative of what is constant but for jumps, and of what gradients do not pass."""
    return torch.zeros_like(g)


def _elu_from_input(g: Tensor, x: Tensor, alpha: float, scale: float, input_scale: float) -> Tensor:
    found: Tensor = torch.ops.aten.elu_backward(g, alpha, scale, input_scale, False, x)
    return found


FUNCTIONS: dict[str, Function] = {
    "sqrt": Function(torch.sqrt, lambda g, y: g / (2 * y), keeps_output=True),
    "rsqrt": Function(torch.rsqrt, lambda g, y: -0.5 * g * y.pow(3), keeps_output=True),
    "exp": Function(torch.exp, lambda g, y: g * y, keeps_output=True),
    "expm1": Function(torch.expm1, lambda g, y: g * (y + 1), keeps_output=True),
    "log": Function(torch.log, lambda g, x: g / x),
    "log1p": Function(torch.log1p, lambda g, x: g / (x + 1)),
    "abs": Function(torch.abs, lambda g, x: g * x.sign()),
    "reciprocal": Function(torch.reciprocal, lambda g, y: -g * y * y, keeps_output=True),
    "sin": Function(torch.sin, lambda g, x: g * x.cos()),
    "cos": Function(torch.cos, lambda g, x: -g * x.sin()),
    "erf": Function(torch.erf, lambda g, x: g * (2 / math.sqrt(math.pi)) * torch.exp(-x * x)),
    "pow": Function(torch.pow, _power),
    "sign": Function(torch.sign, lambda g, x: torch.zeros_like(g)),
    "softshrink": Function(F.softshrink, lambda g, x, bound: g * (x.abs() > bound)),
    "hardshrink": Function(F.hardshrink, lambda g, x, bound: g * (x.abs() > bound)),
    "threshold": Function(F.threshold, lambda g, x, bound, value: g * (x > bound)),
    "clamp": Function(lambda x, low, high: x.clamp(low, high), _inside),
    "log_sigmoid": Function(F.logsigmoid, lambda g, x: g * torch.sigmoid(-x)),
    "softplus": Function(
        F.softplus,
        lambda g, x, beta, bound: torch.where(beta * x > bound, g, g * torch.sigmoid(beta * x)),
    ),
    # With a negative slope the value's sign is not the input's.
    "leaky_relu": Function(F.leaky_relu, lambda g, x, slope: torch.where(x > 0, g, g * slope)),
    "elu": Function(torch.ops.aten.elu, _elu_from_input),
    "exp2": Function(torch.exp2, lambda g, y: g * y * math.log(2), keeps_output=True),
    "log2": Function(torch.log2, lambda g, x: g / (x * math.log(2))),
    "log10": Function(torch.log10, lambda g, x: g / (x * math.log(10))),
    "atan": Function(torch.atan, lambda g, x: g / (1 + x * x)),
    "asin": Function(torch.asin, lambda g, x: g * (1 - x * x).rsqrt()),
    "acos": Function(torch.acos, lambda g, x: -g * (1 - x * x).rsqrt()),
    "sinh": Function(torch.sinh, lambda g, x: g * x.cosh()),
    "cosh": Function(torch.cosh, lambda g, x: g * x.sinh()),
    "asinh": Function(torch.asinh, lambda g, x: g * (x * x + 1).rsqrt()),
    "erfc": Function(torch.erfc, lambda g, x: g * (-2 / math.sqrt(math.pi)) * torch.exp(-x * x)),
    "exponential": Function(
        lambda x, base: torch.pow(base, x),
        lambda g, y, base: g * y * math.log(base),
        keeps_output=True,
    ),
    "remainder": Function(torch.remainder, lambda g, x, divisor: g),
    "fmod": Function(torch.fmod, lambda g, x, divisor: g),
    "round": Function(torch.round, _flat),
    "floor": Function(torch.floor, _flat),
    "ceil": Function(torch.ceil, _flat),
    "trunc": Function(torch.trunc, _flat),
    "detach": Function(torch.clone, _flat),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Elementwise(Op):
    """A function of each element.

    Attributes:
        function: a name in `FUNCTIONS`.
        parameters: of it: the exponent of "pow", the bounds of "clamp" and of those that cut.
    """

    function: str
    parameters: tuple[float, ...] = ()

    kind: ClassVar[str] = "elementwise"

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The value; keeps what the derivative needs."""
        rule = FUNCTIONS[self.function]
        y = rule.value(inputs[0], *self.parameters)
        return y, y if rule.keeps_output else inputs[0]

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """The cotangent times the derivative."""
        return (FUNCTIONS[self.function].cotangent(cotangent, kept, *self.parameters),)

    @property
    def keeps_output(self) -> bool:
        """Whether the output is kept rather than the input."""
        return FUNCTIONS[self.function].keeps_output

    def backward_reads(self, side: int) -> tuple[int, ...]:
        """The input or output."""
        return (self.output if self.keeps_output else self.inputs[0],)

    def kept(self, element_size: int) -> tuple[Residue, ...]:
        """The input or output."""
        kind = "output" if self.keeps_output else "input"
        return (Residue(kind, count(self.shape) * element_size),)

    def detail(self) -> str:
        """Its name and parameters."""
        return " ".join([self.function, *(f"{p:g}" for p in self.parameters)])
