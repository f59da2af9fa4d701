"""The options of a tiny training set, and reading what a command printed."""

from __future__ import annotations

import json
from typing import Any

import pytest

TINY = ("--data", "digits", "--train-size", "40", "--image-size", "16", "--seed", "3")


def from_stdout(capsys: pytest.CaptureFixture[str]) -> Any:
    """Parse stdout, which must be JSON alone."""
    return json.loads(capsys.readouterr().out)
