"""Forty real digits, a network trained on them by the command line, and its transformed images."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_parts import TINY

from sign_ext.cli import main


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `sign-ext train` left behind after one epoch."""
    out = tmp_path_factory.mktemp("cli") / "trained"
    code = main(["train", *TINY, "--model", "basic_cnn", "--epochs", "1", "--out", str(out)])
    assert code == 0
    return out


@pytest.fixture(scope="session")
def transformed(trained: Path) -> Path:
    """A folder that `sign-ext transform` left behind: K = 1 and 2."""
    out = trained.parent / "transformed"
    arguments = ["--checkpoint", str(trained / "model.safetensors"), "--out", str(out)]
    arguments += ["--steps", "2", "--snapshots", "1", "2", "--step-size", "20"]
    assert main(["transform", *TINY, *arguments]) == 0
    return out
