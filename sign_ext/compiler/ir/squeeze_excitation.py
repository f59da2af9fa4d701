"""Squeeze-and-excitation as one operation: pooling, a small network, and the product with x."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from torch import Tensor

from sign_ext.compiler.ir.dense import Convolution, Linear
from sign_ext.compiler.ir.op import Op, Residue, count, describe_activation
from sign_ext.compiler.ir.pointwise import Multiply, Pointwise, Smooth
from sign_ext.compiler.ir.pooling import AveragePool
from sign_ext.compiler.ir.shaping import Reshape


@dataclass(frozen=True, eq=False, kw_only=True)
class SqueezeExcitation(Op):
    """x · s(mean of x over positions), s giving one factor for each channel.

    As one operation it keeps x once, neither the product nor x · s is kept, and the backward pass
    goes over the image twice: for Σ g · x, which is s's cotangent, and for g · s + the pooling's.

    Attributes:
        network: s, from (C,) to (C,). The operations' value numbers mean nothing here.
    """

    network: tuple[Op, ...]

    kind: ClassVar[str] = "squeeze-excitation"

    @property
    def runs_by(self) -> str:
        """Our operators go over the image."""
        return "ours"

    @property
    def overwrites_cotangent(self) -> bool:
        """The last pass reads each element of the cotangent before it writes it."""
        return True

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The product; keeps x, its factors and what the network keeps."""
        (x,) = inputs
        value, residues = x.mean((2, 3)), []
        for op in self.network:
            value, residue = op.forward(value)
            residues.append(residue)
        factors = value[:, :, None, None]
        return x * factors, (x, factors, residues)

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """g · s, plus the pooling's cotangent."""
        x, factors, residues = kept
        value = (cotangent * x).sum((2, 3))
        for op, residue in zip(reversed(self.network), reversed(residues), strict=True):
            (value,) = op.vjp(value, residue)
        positions = count(self.shape[1:])
        return (cotangent * factors + value[:, :, None, None] / positions,)

    def backward_reads(self, side: int) -> tuple[int, ...]:
        """The input."""
        return (self.inputs[0],)

    def kept(self, element_size: int) -> tuple[Residue, ...]:
        """The input, and every value of the network."""
        whole = Residue("input", count(self.shape) * element_size)
        return (whole, *self.own_residues(element_size))

    def own_residues(self, element_size: int) -> tuple[Residue, ...]:
        """The network's values, in float32 (float64)."""
        values = sum(count(op.shape) for op in self.network)
        return (Residue("factors", values * max(element_size, 4)),)

    def workspace(self, element_size: int) -> int:
        """The sums over positions, and the network's cotangents."""
        return max(element_size, 4) * 3 * self.shape[0]

    def without_weights(self) -> Self:
        """Without those of the network."""
        return replace(self, network=tuple(op.without_weights() for op in self.network))

    def flops(self) -> int:
        """The network's."""
        return sum(op.flops() for op in self.network)

    def traffic(self, element_size: int = 4) -> int:
        """x is read twice."""
        return 3 * element_size * count(self.shape)

    def detail(self) -> str:
        """The network's widths and activations."""
        terms = []
        for op in self.network:
            if isinstance(op, Smooth):
                terms.append(op.function)
            else:
                terms.append(str(op.shape[0]))
            if not op.activation.is_identity:
                terms.append(describe_activation(op.activation))
        return ", ".join(terms)


def fuse_excitations(ops: list[Op], output: int) -> list[Op] | None:
    """Make one operation of each global pooling, network and product; None where there is none.

    Args:
        ops: in an order in which they can be computed.
        output: the number of the program's value.
    """
    made_by = {op.output: op for op in ops}
    readers: dict[int, int] = {output: 1}
    for op in ops:
        for number in op.inputs:
            readers[number] = readers.get(number, 0) + 1
    found: dict[int, SqueezeExcitation] = {}
    inner: set[int] = set()
    for op in ops:
        chain = _network_of(op, made_by, readers)
        if chain is None:
            continue
        x, numbers, network = chain
        found[op.output] = SqueezeExcitation(
            inputs=(x,),
            output=op.output,
            in_shapes=(op.shape,),
            shape=op.shape,
            activation=op.activation,
            network=network,
        )
        inner |= numbers
    if not found:
        return None
    return [found.get(op.output, op) for op in ops if op.output not in inner]


def _network_of(
    op: Op, made_by: dict[int, Op], readers: dict[int, int]
) -> tuple[int, set[int], tuple[Op, ...]] | None:
    """x, the numbers of the values between it and the product, and the network; or None."""
    if not isinstance(op, Multiply) or not op.is_gate:
        return None
    x, number = op.inputs
    inner: set[int] = set()
    network: list[Op] = []
    while True:
        before = made_by.get(number)
        if before is None or readers[number] > 1 or len(before.inputs) != 1:
            return None
        inner.add(number)
        if isinstance(before, AveragePool):
            whole = before.inputs == (x,) and before.is_global and before.activation.is_identity
            return (x, inner, tuple(reversed(network))) if whole and network else None
        flat = _on_vectors(before)
        if flat is None:
            return None
        network += flat
        number = before.inputs[0]


def _on_vectors(op: Op) -> list[Op] | None:
    """An operation on (C, 1, 1) as one on (C,), [] where nothing remains of it; None: impossible."""
    sizes = (count(op.in_shapes[0]), count(op.shape))
    if op.in_shapes[0][0] != sizes[0] or op.shape[0] != sizes[1]:
        return None
    shapes = {"in_shapes": ((sizes[0],),), "shape": (sizes[1],)}
    if isinstance(op, Reshape):
        return [] if op.activation.is_identity else None
    if isinstance(op, Convolution):
        if not op.is_pointwise:
            return None
        weight = op.weight[:, :, 0, 0]
        common = {"inputs": op.inputs, "output": op.output, "activation": op.activation}
        return [Linear(weight=weight, bias=op.bias, **common, **shapes)]  # type: ignore[arg-type]
    if isinstance(op, Linear | Pointwise | Smooth):
        return [replace(op, **shapes)]
    return None
