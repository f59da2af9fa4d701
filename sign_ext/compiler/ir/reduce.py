"""Reductions over some dimensions of each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from sign_ext.compiler.ir.op import Residue, count
from sign_ext.compiler.ir.viewed import Own, Viewed

Dims = list[int]


class Reduction(NamedTuple):
    """A reduction and its derivative.

    Attributes:
        value: (x, dimensions, correction) → the value, with dimensions of one element.
        cotangent: (g, x, y, own, dimensions, correction) → x's, all but x with dimensions of one
            element; x is None where it is not read.
        reads_input: whether the derivative needs x.
        reads_output: whether it needs the value.
    """

    value: Callable[[Tensor, Dims, float], Tensor]
    cotangent: Callable[..., Tensor]
    reads_input: bool = False
    reads_output: bool = False


def _deviation(x: Tensor, dims: Dims) -> Tensor:
    return x - x.mean(dims, keepdim=True)


def _size(x: Tensor, dims: Dims) -> int:
    return count(tuple(x.shape[d] for d in dims))


def _extreme(g: Tensor, x: Tensor, y: Tensor, dims: Dims, correction: float) -> Tensor:
    """Shared in equal parts by all elements that are extreme."""
    extreme = x == y
    return extreme * (g / extreme.sum(dims, keepdim=True))


def _variance(g: Tensor, x: Tensor, y: Tensor | None, dims: Dims, correction: float) -> Tensor:
    return _deviation(x, dims) * (g * (2 / (_size(x, dims) - correction)))


def _std(g: Tensor, x: Tensor, y: Tensor, dims: Dims, correction: float) -> Tensor:
    factor = (g / (y * (_size(x, dims) - correction))).masked_fill(y == 0, 0)
    return _deviation(x, dims) * factor


def _two_norm(x: Tensor, dims: Dims) -> Tensor:
    """By squares where the innermost dimension stays, which PyTorch's own norm is slow at."""
    stays = any(x.stride(d) == 1 and x.shape[d] > 1 and d not in dims for d in range(x.dim()))
    if stays and x.dtype in (torch.float32, torch.float64):
        return x.square().sum(dims, keepdim=True).sqrt_()
    return torch.linalg.vector_norm(x, 2, dims, keepdim=True)


def _norm(g: Tensor, x: Tensor, y: Tensor, dims: Dims, correction: float) -> Tensor:
    """0 where the norm is."""
    return x * (g / y).masked_fill_(y == 0, 0)


# Sums and means pass their cotangent to every element: `Reduce` expands what these return.
REDUCTIONS: dict[str, Reduction] = {
    "sum": Reduction(lambda x, dims, _: x.sum(dims, keepdim=True), lambda g, *_: g),
    "mean": Reduction(lambda x, dims, _: x.mean(dims, keepdim=True), lambda g, *_: g),
    "var": Reduction(
        lambda x, dims, c: x.var(dims, correction=c, keepdim=True), _variance, reads_input=True
    ),
    "std": Reduction(lambda x, dims, c: x.std(dims, correction=c, keepdim=True), _std, True, True),
    "amax": Reduction(lambda x, dims, _: x.amax(dims, keepdim=True), _extreme, True, True),
    "amin": Reduction(lambda x, dims, _: x.amin(dims, keepdim=True), _extreme, True, True),
    "norm": Reduction(lambda x, dims, _: _two_norm(x, dims), _norm, True, True),
    "norm1": Reduction(
        lambda x, dims, _: torch.linalg.vector_norm(x, 1, dims, keepdim=True),
        lambda g, x, *_: x.sign() * g,
        reads_input=True,
    ),
    "logsumexp": Reduction(
        lambda x, dims, _: torch.logsumexp(x, dims, keepdim=True),
        lambda g, x, y, *_: (x - y).exp_() * g,
        True,
        True,
    ),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Reduce(Viewed):
    """A sum, a mean, ... over some dimensions.

    Attributes:
        function: a name in `REDUCTIONS`.
        dims: of one image's view, counted from 0.
        keepdim: whether the value has dimensions of one element for them.
        correction: of var and std: what the number of elements is reduced by.
    """

    function: str
    dims: tuple[int, ...]
    keepdim: bool = False
    correction: float = 0.0

    kind: ClassVar[str] = "reduce"

    def reads(self, operand: int) -> tuple[tuple[int, ...], bool]:
        """As the table has it."""
        rule = REDUCTIONS[self.function]
        return ((0,) if rule.reads_input else ()), rule.reads_output

    def _over(self) -> Dims:
        """The dimensions of a batch."""
        return [dim + 1 for dim in self.dims]

    def value(self, *operands: Tensor) -> tuple[Tensor, Own]:
        """Call PyTorch's operator."""
        value = REDUCTIONS[self.function].value(operands[0], self._over(), self.correction)
        return value.reshape(len(value), *self.out.shape), ()

    def cotangent(
        self, operand: int, g: Tensor, xs: Sequence[Tensor | None], y: Tensor | None, own: Own
    ) -> Tensor:
        """As PyTorch defines it: extreme elements that are equal share theirs."""
        whole = self.views[0].shape
        ones = [1 if d in self.dims else size for d, size in enumerate(whole)]
        g = g.reshape(len(g), *ones)
        if self.function == "mean":
            g = g / count(tuple(whole[d] for d in self.dims))
        if y is not None:
            y = y.reshape(len(y), *ones)
        rule = REDUCTIONS[self.function]
        found = rule.cotangent(g, xs[0], y, self._over(), self.correction)
        return found.expand(len(g), *whole)

    def workspace(self, element_size: int) -> int:
        """The squares, for a norm."""
        return count(self.views[0].shape) * element_size if self.function == "norm" else 0

    def detail(self) -> str:
        """What, over which sizes."""
        sizes = "×".join(str(self.views[0].shape[d]) for d in self.dims)
        return f"{self.function} over {sizes or 1}"


@dataclass(frozen=True, eq=False, kw_only=True)
class First(Viewed):
    """The largest or smallest element along a dimension, the first of equal ones, as `max(x, dim)`.

    Attributes:
        dim: of one image's view, counted from 0.
        keepdim: whether the value has a dimension of one element for it.
        largest: whether it is the largest.
    """

    dim: int
    keepdim: bool = False
    largest: bool = True

    kind: ClassVar[str] = "first"

    def value(self, *operands: Tensor) -> tuple[Tensor, Own]:
        """The element; keeps where it was."""
        function = torch.max if self.largest else torch.min
        value, where = function(operands[0], self.dim + 1, keepdim=True)
        return value.reshape(len(value), *self.out.shape), (where,)

    def cotangent(
        self, operand: int, g: Tensor, xs: Sequence[Tensor | None], y: Tensor | None, own: Own
    ) -> Tensor:
        """To where it was."""
        whole = g.new_zeros((len(g), *self.views[0].shape))
        return whole.scatter_(self.dim + 1, own[0], g.reshape(own[0].shape))

    def own_residues(self, element_size: int) -> tuple[Residue, ...]:
        """A place for each."""
        return (Residue("places", 8 * count(self.out.shape)),)

    def detail(self) -> str:
        """Which, of how many."""
        which = "largest" if self.largest else "smallest"
        return f"{which} of {self.views[0].shape[self.dim]}"
