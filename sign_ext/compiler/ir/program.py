"""`Program`: a frozen network up to its source layer, as plain data.

`forward` and `backward` define its meaning in plain torch, in any dtype. They are the oracle that
faster executors are tested against. `print(program)` shows what runs and what each operation keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from sign_ext.compiler.ir.op import Op, Shape, count
from sign_ext.formatting import bytes_in_words, quantity

# What a machine computes while it moves a byte: of the order of a CPU's and a GPU's, in float32.
FLOP_A_BYTE = 8


@dataclass(frozen=True, eq=False, kw_only=True)
class Program:
    """Operations in order. Value 0 is the image; operation i computes value i + 1.

    Attributes:
        image_shape: (C, H, W) of one image, (C, D, H, W) of a volume, (C, T) of a signal.
        ops: the operations up to the last one that is not linear.
        seed: the cotangent of the last value for a cotangent of ones at the source layer, of one
            image. The linear operations after that value are folded into it.
        folded: descriptions of those operations.
        source: a description of where Φ is read.
        by_objective: whether nothing is folded, and the last value is the network's output, of
            which an objective makes the cotangent in each step. `seed` is ones then.
    """

    image_shape: Shape
    ops: tuple[Op, ...]
    seed: Tensor
    folded: tuple[str, ...] = ()
    source: str = ""
    by_objective: bool = False

    def forward(self, images: Tensor) -> list[Any]:
        """Every operation's residue.

        Args:
            images: (N, *image_shape).
        """
        values: list[Tensor] = [as_stored(images)]
        residues = []
        for op in self.ops:
            value, residue = op.forward(*[values[number] for number in op.inputs])
            values.append(value)
            residues.append(residue)
        return residues

    def backward(self, residues: list[Any], n: int) -> Tensor:
        """δ, from the residues of a forward pass over n images.

        Args:
            residues: from `forward`.
            n: the number of images.
        """
        last = len(self.ops)
        cotangents: dict[int, Tensor] = {last: self.seed.expand(n, *self.seed.shape)}
        for op, residue in zip(reversed(self.ops), reversed(residues), strict=True):
            cotangent = cotangents.pop(op.output)
            for number, part in zip(op.inputs, op.vjp(cotangent, residue), strict=True):
                earlier = cotangents.get(number)
                cotangents[number] = part if earlier is None else earlier + part
        return cotangents[0].reshape(n, *self.image_shape)

    def pullback_of_ones(self, images: Tensor) -> Tensor:
        """δ = Σ_a ∂Φ^a/∂x^i, line 3 of Algorithm 1.

        Args:
            images: (N, *image_shape), of the constants' dtype and device.

        Returns:
            (N, *image_shape).
        """
        return self.backward(self.forward(images), len(images))

    def to(self, *args: Any, **options: Any) -> Program:
        """The same program with its constants in another dtype or on another device.

        Args:
            *args: as for `torch.Tensor.to`.
            **options: as for `torch.Tensor.to`.
        """
        ops = tuple(op.with_constants(lambda c: c.to(*args, **options)) for op in self.ops)
        return replace(self, ops=ops, seed=self.seed.to(*args, **options))

    def shape_of(self, number: int) -> Shape:
        """One image's shape of a value.

        Args:
            number: 0 for the image, i + 1 for the output of operation i.
        """
        return self.image_shape if number == 0 else self.ops[number - 1].shape

    def readers(self) -> Mapping[int, tuple[int, ...]]:
        """For each value, the indices of the operations that read it, in order."""
        found: dict[int, list[int]] = {number: [] for number in range(len(self.ops) + 1)}
        for i, op in enumerate(self.ops):
            for number in op.inputs:
                found[number].append(i)
        return {number: tuple(readers) for number, readers in found.items()}

    def stem(self) -> int | None:
        """The index of the convolution whose input-backward can be added straight to the image.

        It is the first operation, or the second after an affine map (a standardisation that padding
        keeps from being folded), and nothing else reads the image.
        """
        if len(self.image_shape) != 3:
            return None
        readers = self.readers()
        index = 0
        if self.ops and self.ops[0].is_affine and readers[0] == (0,):
            index = 1
        if index >= len(self.ops) or readers[index] != (index,):
            return None
        return index if self.ops[index].can_update_image else None

    def residue_bytes(self, element_size: int = 4) -> int:
        """Bytes that one image keeps between forward and backward.

        Args:
            element_size: bytes of an element of an activation.
        """
        return sum(r.bytes for op in self.ops for r in op.residues(element_size))

    def flops(self) -> int:
        """Floating-point operations of one image and step, forward and input-backward."""
        return 2 * sum(op.flops() for op in self.ops)

    def shares(self) -> tuple[float, ...]:
        """The estimated share of a step of each operation: arithmetic, and bytes moved."""
        work = [op.flops() + FLOP_A_BYTE * op.traffic() for op in self.ops]
        return tuple(each / max(sum(work), 1) for each in work)

    def __str__(self) -> str:
        """The table for activations of float32."""
        return self.table()

    def table(self, element_size: int = 4) -> str:
        """One line an operation, with what it reads, makes and keeps of one image; then the sums.

        Args:
            element_size: bytes of an element of an activation.
        """
        rows = []
        for i, op in enumerate(self.ops):
            residues = op.residues(element_size)
            kept = ", ".join(f"{r.kind} {bytes_in_words(r.bytes)}" for r in residues)
            reads = " ".join(f"%{number}" for number in op.inputs)
            rows.append((f"%{i + 1}", f"{op}({reads})", _dimensions(op.shape), kept or "nothing"))
        widths = [max((len(row[c]) for row in rows), default=0) for c in range(3)]
        head = "the output" if self.by_objective else "Φ"
        lines = [f"{head}: {self.source}"] if self.source else []
        lines.append(f"%0  the image, {_dimensions(self.image_shape)}")
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            lines.append("  ".join((*cells, f"keeps {row[3]}")))
        if self.folded:
            lines.append(f"folded into the cotangent: {', then '.join(self.folded)}")
        activations = sum(count(op.shape) for op in self.ops) * element_size
        lines.append(
            f"one image: keeps {bytes_in_words(self.residue_bytes(element_size))}, passes through "
            f"{bytes_in_words(activations)} of activations, {quantity(self.flops(), 'FLOP')} a step"
        )
        return "\n".join(lines)


def as_stored(images: Tensor) -> Tensor:
    """Images as a program's value 0 is stored: volumes and signals are images for it.

    Args:
        images: (N, C, H, W), (N, C, D, H, W) or (N, C, T).

    Returns:
        (N, C, H, W), (N, C, D·H, W) or (N, C, 1, T), in the same memory if that lies so.
    """
    if images.dim() == 5:
        return images.flatten(2, 3)
    return images.unsqueeze(2) if images.dim() == 3 else images


def renumber(ops: list[Op], output: int) -> tuple[list[Op], int]:
    """Number values by the positions of their operations.

    Args:
        ops: in order, with any numbers.
        output: the number of one of their values.

    Returns:
        The operations and that value's new number.
    """
    new = {0: 0, **{op.output: i + 1 for i, op in enumerate(ops)}}
    renumbered = [
        replace(op, inputs=tuple(new[n] for n in op.inputs), output=new[op.output]) for op in ops
    ]
    return renumbered, new[output]


def constant_bytes(program: Program) -> int:
    """Bytes of a program's weights and other constants.

    Args:
        program: any program.
    """
    constants = [program.seed, *(c for op in program.ops for c in op.constants())]
    return sum(c.numel() * c.element_size() for c in constants)


def _dimensions(shape: Shape) -> str:
    return "×".join(map(str, shape))
