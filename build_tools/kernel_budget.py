"""What the compiled kernels may cost: instructions, branches, registers and spills on sm_90.

`kernel_budget.csv` has a row for each kernel. `check_spills` compiles the kernels, counts in the
machine code and holds the counts to that file. What grows past the tolerance needs a reason, which
`--update --because` writes into the row.
"""

from __future__ import annotations

import csv
import io
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

FILE = Path(__file__).resolve().parent / "kernel_budget.csv"
ARCH = "sm_90"
FIELDS = ("source", "kernel", "instructions", "branches", "registers", "spilled", "reason")
COUNTED = ("instructions", "branches", "registers", "spilled")
# By how much a count may exceed its row: a share of it, and at least so many. Compilers reorder
# what a change elsewhere touches; a spill has no such excuse.
TOLERANCE = {"instructions": (0.03, 8), "branches": (0.05, 2), "registers": (0.0, 4)}

_FUNCTION = re.compile(r"^\s*Function : (\S+)", re.MULTILINE)
_INSTRUCTION = re.compile(
    r"^\s*/\*(?P<address>[0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?(?P<opcode>[A-Z][\w.]*)(?P<rest>[^;]*);",
    re.MULTILINE,
)
_TARGET = re.compile(r"0x([0-9a-f]+)\s*$")
_JUMPS = {"BRA", "BRX", "CALL", "JMP", "JMX"}


@dataclass(frozen=True)
class Cost:
    """One kernel's row: what was counted in its machine code."""

    source: str  # "activate_cuda.cu"
    kernel: str  # "activate_kernel<float, float, false>"
    instructions: int  # without padding
    branches: int  # jumps and calls, taken or not
    registers: int  # per thread
    spilled: int  # bytes per thread, stores and loads
    reason: str = ""  # why the kernel costs more than it did


def parse_sass(listing: str) -> dict[str, tuple[int, int]]:
    """Count instructions and branches in the output of `cuobjdump -sass`.

    Args:
        listing: The disassembly of one object, with any number of kernels.

    Returns:
        Mangled name → (instructions, branches). NOPs, which pad a kernel to a multiple of its
        alignment, do not count, and neither does the jump to itself after the last instruction.
    """
    counts = {}
    parts = _FUNCTION.split(listing)
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        instructions = branches = 0
        for match in _INSTRUCTION.finditer(body):
            opcode = match["opcode"].split(".")[0]
            target = _TARGET.search(match["rest"])
            to_itself = target is not None and int(target[1], 16) == int(match["address"], 16)
            if opcode == "NOP" or (opcode == "BRA" and to_itself):
                continue
            instructions += 1
            branches += opcode in _JUMPS
        counts[name] = (instructions, branches)
    return counts


def demangled(names: Iterable[str]) -> dict[str, str]:
    """Mangled name → the kernel's name with its template arguments, by c++filt.

    Raises:
        SystemExit: c++filt is missing.
    """
    listed = list(names)
    try:
        result = subprocess.run(
            ["c++filt"], input="\n".join(listed), capture_output=True, text=True, check=True
        )
    except FileNotFoundError:
        raise SystemExit("c++filt, which names the kernels, is missing: install binutils") from None
    return dict(zip(listed, map(short_name, result.stdout.splitlines()), strict=True))


def short_name(signature: str) -> str:
    """A signature without its result, its namespaces and its parameters.

    Example:
        >>> short_name("void sign_ext::gate_kernel<float>(float const*, long)")
        'gate_kernel<float>'
    """
    name = signature.replace("(anonymous namespace)::", "").replace("sign_ext::", "")
    depth, end = 0, len(name)
    for position, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            end = position
            break
    name = name[:end]
    depth, begin = 0, 0
    for position, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == " " and depth == 0:
            begin = position + 1
    return name[begin:]


def read(text: str) -> tuple[str, dict[tuple[str, str], Cost]]:
    """Read a budget.

    Args:
        text: The file's content: a comment that names the compiler, then CSV.

    Returns:
        The version of nvcc that it was counted with ("13.0"), and its rows by source and kernel.

    Raises:
        ValueError: The text is not a budget, or has two rows for one kernel.
    """
    head, _, table = text.partition("\n")
    version = re.match(r"# nvcc (\d+\.\d+)", head)
    rows = csv.DictReader(io.StringIO(table))
    if version is None or tuple(rows.fieldnames or ()) != FIELDS:
        raise ValueError(f"not a budget: it must begin with '# nvcc X.Y' and have {FIELDS}")
    budget: dict[tuple[str, str], Cost] = {}
    for row in rows:
        counts = {name: int(row[name]) for name in COUNTED}
        cost = Cost(row["source"], row["kernel"], **counts, reason=row["reason"])
        if (cost.source, cost.kernel) in budget:
            raise ValueError(f"{cost.kernel} of {cost.source} has two rows")
        budget[cost.source, cost.kernel] = cost
    return version[1], budget


def write(version: str, costs: Iterable[Cost]) -> str:
    """The content of a budget's file.

    Args:
        version: nvcc's, "13.0".
        costs: The rows, in any order.
    """
    out = io.StringIO()
    out.write(f"# nvcc {version}, {ARCH}: python -m build_tools.check_spills --update\n")
    table = csv.writer(out, lineterminator="\n")
    table.writerow(FIELDS)
    for cost in sorted(costs, key=lambda cost: (cost.source, cost.kernel)):
        table.writerow([getattr(cost, name) for name in FIELDS])
    return out.getvalue()


def allowed(count: str, budgeted: int) -> int:
    """The most that a count may be for its row."""
    share, least = TOLERANCE.get(count, (0.0, 0))
    return budgeted + max(int(share * budgeted), least)


def growth(measured: Cost, row: Cost) -> str:
    """Which counts exceed the row's by more than the tolerance, as "branches 9 → 83"; or ""."""
    grown = [
        f"{name} {getattr(row, name)} → {getattr(measured, name)}"
        for name in COUNTED
        if getattr(measured, name) > allowed(name, getattr(row, name))
    ]
    return ", ".join(grown)


def complaints(
    measured: Iterable[Cost], budget: Mapping[tuple[str, str], Cost], *, version_differs: bool
) -> list[str]:
    """What is wrong with the counts, a sentence each.

    Args:
        measured: Every kernel.
        budget: The rows of the file.
        version_differs: Whether another nvcc wrote the file. Counts are then not compared.
    """
    found = []
    seen = set()
    for cost in measured:
        key = (cost.source, cost.kernel)
        seen.add(key)
        if key not in budget:
            found.append(f"{cost.kernel} of {cost.source} has no row")
        elif not version_differs and (grown := growth(cost, budget[key])):
            found.append(f"{cost.kernel} of {cost.source} grew: {grown}")
    found += [
        f"{kernel} of {source} has a row, but is gone"
        for source, kernel in budget
        if (source, kernel) not in seen
    ]
    return found


def updated(
    measured: Iterable[Cost], budget: Mapping[tuple[str, str], Cost], because: str
) -> list[Cost]:
    """The rows of the new file.

    Args:
        measured: Every kernel.
        budget: The rows of the old file.
        because: Why kernels grew; it replaces the reason in their rows.

    Raises:
        ValueError: A kernel grew past the tolerance, and no reason was given.
    """
    rows = []
    for cost in measured:
        row = budget.get((cost.source, cost.kernel))
        grown = growth(cost, row) if row else ""
        if grown and not because:
            raise ValueError(f"{cost.kernel} grew ({grown}): say why with --because")
        rows.append(replace(cost, reason=because if grown else row.reason if row else ""))
    return rows
