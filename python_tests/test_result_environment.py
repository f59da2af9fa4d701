"""What a result says about the commit and the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import pytest
import torch

from sign_ext import environment

ROOT = Path(__file__).parents[1]


def git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(
    not (ROOT / ".git").exists() or ROOT != environment.ROOT,
    reason="the tests run on an installed package, or outside a checkout",
)
def test_a_checkout_names_its_commit():
    changed = bool(git("status", "--porcelain", "-uno"))
    assert environment.commit() == git("rev-parse", "--short=12", "HEAD") + "+changes" * changed


def test_outside_a_checkout_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    assert environment.commit.__wrapped__() == ""
    (tmp_path / ".git").mkdir()  # no repository that git can read
    assert environment.commit.__wrapped__() == ""


def test_the_machine_in_short_and_in_detail():
    short, details = environment.machine(), environment.machine_details(torch.device("cpu"))
    assert sorted(short) == ["cores", "device", "processor", "system", "threads"]
    assert short["device"] == "cpu"
    for found in (short, details):
        assert found["cores"] == os.cpu_count()
        assert found["threads"] == torch.get_num_threads()
        assert platform.node() not in (v for v in found.values() if isinstance(v, str))
    assert details["torch"] == torch.__version__
    assert details["gpu"] is None
