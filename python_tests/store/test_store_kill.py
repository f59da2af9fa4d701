"""Killed at any moment and run again, a store has the same bytes as one that was left in peace."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COUNT, SHARD_SIZE = 300, 11


@pytest.fixture
def run():
    """Run into a folder, killed after some seconds or never; returns the exit code."""
    script = Path(__file__).with_name("killed_run.py")
    command = [sys.executable, str(script), str(COUNT), str(SHARD_SIZE)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"

        def once(out, seconds="never"):
            server.stdin.write(f"{out} {seconds}\n")
            server.stdin.flush()
            return int(server.stdout.readline())

        yield once
        server.stdin.close()


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_sigkill_at_random_moments(run, kills, tmp_path, rng, content_of):
    began = time.monotonic()
    assert run(tmp_path / "wanted") == 0
    duration = time.monotonic() - began
    wanted = content_of(tmp_path / "wanted")
    killed = half_way = 0
    for kill in range(kills):
        out = tmp_path / str(kill)
        status = run(out, rng.uniform(0, duration))
        assert status in (0, -signal.SIGKILL)
        killed += status != 0
        kept = {each: each.stat().st_mtime_ns for each in out.glob("shard-*.safetensors")}
        half_way += 0 < len(kept) < -(-COUNT // SHARD_SIZE)
        assert run(out) == 0
        assert content_of(out) == wanted
        for path, when in kept.items():
            assert path.stat().st_mtime_ns == when, "a whole shard was made again"
    # The moments were spread over the run: most hit it, and some hit it half-way.
    assert killed >= kills // 2
    assert half_way >= 3 * kills // 20
