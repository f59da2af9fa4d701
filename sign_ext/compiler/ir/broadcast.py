"""Arithmetic of two values, or of a value and a constant, of shapes that broadcast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from sign_ext.compiler.ir.choose import COMPARISONS
from sign_ext.compiler.ir.viewed import Own, Viewed, aligned, summed_to


class Arithmetic(NamedTuple):
    """Arithmetic of two operands and its derivative.

    Attributes:
        value: of a and b.
        first: (g, a, b) → a's cotangent, before it is summed over what was broadcast.
        second: b's.
        reads: of each: which of a and b the cotangent needs.
    """

    value: Callable[[Tensor, Tensor], Tensor]
    first: Callable[..., Tensor]
    second: Callable[..., Tensor]
    reads: tuple[tuple[int, ...], tuple[int, ...]]


def _share(wins: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """The cotangent where one wins, half of it where both are equal."""
    return lambda g, a, b: torch.where(a == b, g / 2, g * wins(a, b))


def _without_derivative(value: Callable[[Tensor, Tensor], Tensor]) -> Arithmetic:
    """What is constant but for jumps, as 0 and 1 in the operands' dtype."""

    def nothing(g: Tensor, *_: Tensor) -> Tensor:
        return torch.zeros_like(g)

    return Arithmetic(lambda a, b: value(a, b).to(a.dtype), nothing, nothing, ((), ()))


ARITHMETIC: dict[str, Arithmetic] = {
    "add": Arithmetic(torch.add, lambda g, *_: g, lambda g, *_: g, ((), ())),
    "sub": Arithmetic(torch.sub, lambda g, *_: g, lambda g, *_: -g, ((), ())),
    "mul": Arithmetic(torch.mul, lambda g, a, b: g * b, lambda g, a, b: g * a, ((1,), (0,))),
    "div": Arithmetic(
        torch.div,
        lambda g, a, b: g / b,
        lambda g, a, b: (a / b).div_(b).mul_(g).neg_(),
        ((1,), (0, 1)),
    ),
    "maximum": Arithmetic(torch.maximum, _share(torch.gt), _share(torch.lt), ((0, 1), (0, 1))),
    "minimum": Arithmetic(torch.minimum, _share(torch.lt), _share(torch.gt), ((0, 1), (0, 1))),
    "atan2": Arithmetic(
        torch.atan2,
        lambda g, a, b: g * b / (a * a + b * b),
        lambda g, a, b: -g * a / (a * a + b * b),
        ((0, 1), (0, 1)),
    ),
    "hypot": Arithmetic(
        torch.hypot,
        lambda g, a, b: g * a / torch.hypot(a, b),
        lambda g, a, b: g * b / torch.hypot(a, b),
        ((0, 1), (0, 1)),
    ),
    "logaddexp": Arithmetic(
        torch.logaddexp,
        lambda g, a, b: g * torch.sigmoid(a - b),
        lambda g, a, b: g * torch.sigmoid(b - a),
        ((0, 1), (0, 1)),
    ),
    "pow": Arithmetic(
        torch.pow,
        lambda g, a, b: torch.where(b == 0, 0, g * b * a.pow(b - 1)),
        lambda g, a, b: torch.where((a == 0) & (b >= 0), 0, g * a.pow(b) * a.log()),
        ((0, 1), (0, 1)),
    ),
    **{name: _without_derivative(compare) for name, compare in COMPARISONS.items()},
    "and": _without_derivative(torch.mul),
    "or": _without_derivative(torch.maximum),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Broadcast(Viewed):
    """Arithmetic on two values, or a value and a constant, whose shapes broadcast: a ∘ b.

    Attributes:
        function: a name in `ARITHMETIC`.
        constant: one of the two, of one image, where it is a constant; None where both are
            operands.
        constant_first: whether the constant is a.
    """

    function: str
    constant: Tensor | None = None
    constant_first: bool = False

    kind: ClassVar[str] = "broadcast"

    @property
    def is_mask(self) -> bool:
        """Whether the value is 0 and 1, of what the network has as bools."""
        return self.function in (*COMPARISONS, "and", "or")

    def _place(self, operand: int) -> int:
        """Whether an operand is a (0) or b (1)."""
        return operand if self.constant is None else int(self.constant_first)

    def _two(self, xs: Sequence[Tensor | None], like: Tensor) -> list[Tensor | None]:
        """a and b, aligned at their last dimensions."""
        dims = len(self.out.shape)
        two = [None if x is None else aligned(x, dims) for x in xs]
        if self.constant is not None:
            two.insert(0 if self.constant_first else 1, self.constant.to(like.dtype))
        return two

    def reads(self, operand: int) -> tuple[tuple[int, ...], bool]:
        """The table's entry, without the constant."""
        places = ARITHMETIC[self.function].reads[self._place(operand)]
        if self.constant is None:
            return places, False
        return tuple(0 for place in places if place == self._place(0)), False

    def value(self, *operands: Tensor) -> tuple[Tensor, Own]:
        """Call PyTorch's operator."""
        a, b = self._two(operands, operands[0])
        assert a is not None
        assert b is not None
        return ARITHMETIC[self.function].value(a, b), ()

    def cotangent(
        self, operand: int, g: Tensor, xs: Sequence[Tensor | None], y: Tensor | None, own: Own
    ) -> Tensor:
        """The table's derivative, summed over broadcast dimensions."""
        rule = ARITHMETIC[self.function]
        function = rule.second if self._place(operand) else rule.first
        found = function(g, *self._two(xs, g))
        return summed_to(found, self.views[operand].shape)

    def detail(self) -> str:
        """The function, and whether one operand is constant."""
        return f"{self.function} constant" if self.constant is not None else self.function


@dataclass(frozen=True, eq=False, kw_only=True)
class Select(Viewed):
    """One of two where a constant mask is set, the other elsewhere.

    Attributes:
        mask: 1 where the first operand is taken, or the fill if there is one; 0 elsewhere.
        fill: a number in place of the first; None where both are operands.
    """

    mask: Tensor
    fill: float | None = None

    kind: ClassVar[str] = "select"

    def value(self, *operands: Tensor) -> tuple[Tensor, Own]:
        """Call PyTorch's operator."""
        mask = self.mask != 0
        if self.fill is None:
            first, second = (aligned(x, len(self.out.shape)) for x in operands)
            return torch.where(mask, first, second), ()
        filled = operands[0].new_full((), self.fill)
        return torch.where(mask, filled, operands[0]), ()

    def cotangent(
        self, operand: int, g: Tensor, xs: Sequence[Tensor | None], y: Tensor | None, own: Own
    ) -> Tensor:
        """The cotangent where this operand was taken, 0 elsewhere."""
        taken = (self.mask != 0) == (operand == 0 and self.fill is None)
        found = g.masked_fill(~taken, 0)
        return summed_to(found, self.views[operand].shape)

    def detail(self) -> str:
        """The fill value."""
        return "" if self.fill is None else f"fill {self.fill:g}"
