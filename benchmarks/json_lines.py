"""A file of results, one JSON object a line, that grows line by line and survives a kill.

A line is written whole, by one `write` and `fsync`. A writer that is killed can leave the last line
torn: the next one begins on a new line, and `read` reports what it could not use.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Broken:
    """A line that is not a JSON object.

    Attributes:
        number: of the line, from 1.
        text: its beginning.
    """

    number: int
    text: str


def read(path: Path) -> tuple[list[Row], list[Broken]]:
    """The rows of a file in order, and the lines that are none; a missing file has neither."""
    if not path.exists():
        return [], []
    rows: list[Row] = []
    broken: list[Broken] = []
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            broken.append(Broken(number, line[:60]))
    return rows, broken


def read_and_report(path: Path) -> list[Row]:
    """The rows of a file; lines that are none are named on the standard error."""
    rows, broken = read(path)
    for line in broken:
        print(
            f"{path.name}, line {line.number} is not a JSON object and counts as not measured: "
            f"{line.text!r}",
            file=sys.stderr,
        )
    return rows


def append(path: Path, row: Row) -> None:
    """Append a row, and return when it is on disk.

    Args:
        path: The file; it and its folder are created if missing.
        row: Plain data without NaN and infinity, which JSON lacks.
    """
    text = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, ("\n" * torn + text).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def latest(rows: Sequence[Row], facts: Sequence[str]) -> dict[tuple[Any, ...], Row]:
    """The last row for each combination of facts, in the order in which these first occur."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        found[tuple(row.get(fact) for fact in facts)] = row
    return found
