"""The options of a tiny training set, and reading what a command printed."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import pytest

from sign_ext.cli import main

TINY = ("--data", "digits", "--train-size", "40", "--image-size", "16", "--seed", "3")


def from_stdout(capsys: pytest.CaptureFixture[str]) -> Any:
    """Parse stdout, which must be JSON alone."""
    return json.loads(capsys.readouterr().out)


def stdout_of(arguments: Sequence[str]) -> bytes:
    """Run a command that succeeds; its stdout is as strict as a process's, unlike pytest's."""
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    with redirect_stdout(stdout):
        assert main(arguments) == 0
    stdout.flush()
    return stdout.buffer.getvalue()  # type: ignore[attr-defined]
