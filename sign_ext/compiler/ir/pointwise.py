"""Elementwise operations: affine maps and sums, smooth activations, products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.compiler.ir.dense import add_residual, affine, times
from sign_ext.compiler.ir.op import Op, Residue, count
from sign_ext.ops.smooth import SmoothFunction


def per_channel(constant: Tensor, like: Tensor) -> Tensor:
    """A per-channel constant (C,), shaped to be combined with (N, C, ...)."""
    return constant.reshape(1, -1, *[1] * (like.dim() - 2))


@dataclass(frozen=True, eq=False, kw_only=True)
class Pointwise(Op):
    """activation(scale · x + shift [+ residual]): an affine map, a sum of branches, a lone ReLU.

    Attributes:
        scale: (C,) or None for 1.
        shift: (C,) or None for 0.
    """

    scale: Tensor | None = None
    shift: Tensor | None = None

    kind: ClassVar[str] = "pointwise"
    ranks: ClassVar[tuple[int, ...]] = (1, 3)

    @property
    def runs_by(self) -> str:
        """Our operator."""
        return "ours"

    @property
    def has_residual(self) -> bool:
        """A second input is added."""
        return len(self.inputs) > 1

    @property
    def takes_residual(self) -> bool:
        """Its operator does."""
        return True

    def followed_by(
        self, scale: Tensor | None, shift: Tensor | None, **changes: Any
    ) -> Pointwise | None:
        """The two maps multiplied out."""
        both = scale if self.scale is None else times(self.scale, scale)
        return replace(self, scale=both, shift=affine(self.shift, scale, shift), **changes)

    @property
    def scale_and_shift(self) -> tuple[Tensor | None, Tensor | None]:
        """Its own."""
        return self.scale, self.shift

    @property
    def is_affine(self) -> bool:
        """One input and no activation."""
        return len(self.inputs) == 1 and self.activation.is_identity

    @property
    def at_each_position(self) -> bool:
        """Each element depends on its own alone."""
        return True

    @property
    def is_identity_vjp(self) -> bool:
        """A shift and a sum change no cotangent."""
        return self.scale is None

    @property
    def works_in_place(self) -> bool:
        """Each element is read once, before it is written."""
        return True

    @property
    def masks_on_load(self) -> bool:
        """The scaling is a pass over the cotangent anyway, in which bits cost nothing."""
        return self.scale is not None

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """Scale, shift, add."""
        value = inputs[0]
        if self.scale is not None:
            value = value * per_channel(self.scale, value)
        if self.shift is not None:
            value = value + per_channel(self.shift, value)
        return add_residual(value, inputs), None

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """Scale the first input's; pass the second's through unchanged."""
        first = cotangent
        if self.scale is not None:
            first = first * per_channel(self.scale, first)
        return (first, cotangent)[: len(self.inputs)]

    def detail(self) -> str:
        """Which of scale, shift and sum it has."""
        terms = [
            "scale" * (self.scale is not None),
            "shift" * (self.shift is not None),
            "add" * self.has_residual,
        ]
        return " ".join(filter(None, terms))


_aten = torch.ops.aten
Forward = Callable[[Tensor], Tensor]
Backward = Callable[[Tensor, Tensor], Tensor]

# Name → (value, input's cotangent, whether the backward reads the output instead of the input)
SMOOTH: dict[str, tuple[Forward, Backward, bool]] = {
    "silu": (F.silu, lambda g, x: _aten.silu_backward(g, x), False),
    "gelu": (F.gelu, lambda g, x: _aten.gelu_backward(g, x), False),
    "gelu_tanh": (
        lambda x: F.gelu(x, approximate="tanh"),
        lambda g, x: _aten.gelu_backward(g, x, approximate="tanh"),
        False,
    ),
    "hardswish": (F.hardswish, lambda g, x: _aten.hardswish_backward(g, x), False),
    "hardsigmoid": (F.hardsigmoid, lambda g, x: _aten.hardsigmoid_backward(g, x), False),
    "mish": (F.mish, lambda g, x: _aten.mish_backward(g, x), False),
    "sigmoid": (torch.sigmoid, lambda g, y: _aten.sigmoid_backward(g, y), True),
    "tanh": (torch.tanh, lambda g, y: _aten.tanh_backward(g, y), True),
    "softplus": (F.softplus, lambda g, x: _aten.softplus_backward(g, x, 1.0, 20.0), False),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Smooth(Op):
    """An activation with a derivative that varies.

    What runs most of them keeps the derivative in 24 bits, of bfloat16 activations in 16
    (`ops/smooth.py`), and writes the value over the input. The others keep their input, or their
    output where that has the derivative.

    Attributes:
        function: a name in `SMOOTH`.
    """

    function: str

    kind: ClassVar[str] = "smooth"

    @property
    def coded(self) -> SmoothFunction | None:
        """What our operator calls it, or None where PyTorch runs it."""
        return SmoothFunction.__members__.get(self.function.upper())

    @property
    def runs_by(self) -> str:
        """Our operator, or PyTorch."""
        return "PyTorch" if self.coded is None else "ours"

    @property
    def at_each_position(self) -> bool:
        """Each element depends on its own alone."""
        return True

    @property
    def works_in_place(self) -> bool:
        """Our operator does; it does not keep the input."""
        return self.coded is not None

    @property
    def overwrites_cotangent(self) -> bool:
        """Our operator reads each element before it writes it."""
        return self.coded is not None

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The value; keeps what the derivative needs."""
        value, _, keeps_output = SMOOTH[self.function]
        y = value(inputs[0])
        return y, y if keeps_output else inputs[0]

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """PyTorch's own derivative."""
        return (SMOOTH[self.function][1](cotangent, kept),)

    @property
    def keeps_output(self) -> bool:
        """Whether the output is kept rather than the input."""
        return SMOOTH[self.function][2]

    def backward_reads(self, side: int) -> tuple[int, ...]:
        """The input or output, unless the derivative is kept."""
        if self.coded is not None:
            return ()
        return (self.output if self.keeps_output else self.inputs[0],)

    def kept(self, element_size: int) -> tuple[Residue, ...]:
        """The derivative, the input or the output."""
        if self.coded is not None:
            return self.own_residues(element_size)
        kind = "output" if self.keeps_output else "input"
        return (Residue(kind, count(self.shape) * element_size),)

    def own_residues(self, element_size: int) -> tuple[Residue, ...]:
        """The derivative: 16 or 24 bits, of float64 activations as it is."""
        if self.coded is None:
            return ()
        return (Residue("derivative", count(self.shape) * derivative_bytes(element_size)),)

    def detail(self) -> str:
        """Its name."""
        return self.function


def derivative_bytes(element_size: int) -> int:
    """Bytes in which an element's derivative is kept; more would be lost in rounding.

    Args:
        element_size: bytes of an element of an activation.
    """
    return {2: 2, 4: 3}.get(element_size, element_size)


@dataclass(frozen=True, eq=False, kw_only=True)
class Multiply(Op):
    """The product of two values; the second may be (C, 1, 1) against (C, H, W), as in a gate."""

    kind: ClassVar[str] = "multiply"

    @property
    def is_gate(self) -> bool:
        """Whether the second factor has one value a channel and the first is an image."""
        return self.in_shapes[0] != self.in_shapes[1] and len(self.shape) == 3

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The product; keeps both factors."""
        return inputs[0] * inputs[1], inputs

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """The cotangent times the other factor, summed over what was broadcast."""
        first, second = kept
        return (
            (cotangent * second).sum_to_size(first.shape),
            (cotangent * first).sum_to_size(second.shape),
        )

    def backward_reads(self, side: int) -> tuple[int, ...]:
        """The other factor."""
        return (self.inputs[1 - side],)

    def kept(self, element_size: int) -> tuple[Residue, ...]:
        """Both factors."""
        elements = sum(count(shape) for shape in self.in_shapes)
        return (Residue("factors", elements * element_size),)
