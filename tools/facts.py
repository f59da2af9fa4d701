"""A file of facts, one JSON object per line, that stays readable if its writer is killed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

Fact = dict[str, Any]


class Facts:
    """Appends facts to a file; several processes may append to it in turn.

    Args:
        file: The file, created if missing.
        step: The step of the check that records these facts.
        began: Start time of the check, from `time.time`.
    """

    def __init__(self, file: Path, step: str, began: float) -> None:
        """Store the arguments; nothing is written yet."""
        self.file, self.step, self._began = file, step, began

    def record(self, fact: str, **values: Any) -> Fact:
        """Append a fact and flush it to disk (fsync) before returning.

        Args:
            fact: Name of the fact.
            **values: Plain data: the numbers, with units in their names, and what they apply to.

        Returns:
            The object that was written.
        """
        at = round(time.time() - self._began, 1)
        line: Fact = {"step": self.step, "at_s": at, "fact": fact, **_plain(values)}
        text = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
        descriptor = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # A killed writer may have left a partial line: start on a new one.
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, ("\n" * torn + text).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return line


def read(file: Path) -> list[Fact]:
    """The facts of a file in order; a partial line is skipped."""
    if not file.exists():
        return []
    found = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def _plain(value: Any) -> Any:
    """Round floats to six digits; infinity and NaN, which JSON lacks, become strings."""
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if abs(value) < float("inf") else str(value)
    return value
