"""A program as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sign_ext.compiler.ir.op import count

if TYPE_CHECKING:
    from sign_ext.compiler.ir.program import Program


def bytes_in_words(size: float) -> str:
    """A number of bytes with a unit.

    Args:
        size: bytes.

    Example:
        >>> bytes_in_words(10_240)
        '10.2 kB'
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} B"


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def program_table(program: Program, element_size: int = 4) -> str:
    """One line an operation, then the sums.

    Args:
        program: any program.
        element_size: bytes of an element of an activation.
    """
    rows = []
    for i, op in enumerate(program.ops):
        kept = ", ".join(f"{r.kind} {bytes_in_words(r.bytes)}" for r in op.residues(element_size))
        reads = " ".join(f"%{number}" for number in op.inputs)
        rows.append((f"%{i + 1}", f"{op}({reads})", _shape(op.shape), kept or "nothing"))
    widths = [max((len(row[c]) for row in rows), default=0) for c in range(3)]
    lines = [f"%0  the image, {_shape(program.image_shape)}"]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join((*cells, f"keeps {row[3]}")))
    activations = sum(count(op.shape) for op in program.ops) * element_size
    if program.folded:
        lines.append(f"folded into the cotangent: {', then '.join(program.folded)}")
    lines.append(
        f"one image: keeps {bytes_in_words(program.residue_bytes(element_size))}, passes through "
        f"{bytes_in_words(activations)} of activations, {program.flops() / 1e6:.3g} MFLOP a step"
    )
    if program.source:
        lines.insert(0, f"Φ: {program.source}")
    return "\n".join(lines)
