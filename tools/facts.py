"""A file of facts, one JSON object a line, that is readable whenever its writer is killed."""

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
        file: Where, made if it is not there.
        step: Which step of the check the facts are from.
        began: When the check began, by `time.time`.
    """

    def __init__(self, file: Path, step: str, began: float) -> None:
        """Nothing is written yet."""
        self.file, self.step, self._began = file, step, began

    def tell(self, fact: str, **values: Any) -> Fact:
        """Write a line, to the disk, before returning.

        Args:
            fact: What is known now.
            **values: Plain data: the numbers, their units in their names, and what they hold for.

        Returns:
            What was written.
        """
        at = round(time.time() - self._began, 1)
        line: Fact = {"step": self.step, "at_s": at, "fact": fact, **_plain(values)}
        text = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
        descriptor = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # A writer that was killed may have left half a line.
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, ("\n" * torn + text).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return line


def read(file: Path) -> list[Fact]:
    """The facts of a file in order, without a line that is not whole."""
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
    """Numbers with six digits, and words for those that JSON does not have."""
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if abs(value) < float("inf") else str(value)
    return value
