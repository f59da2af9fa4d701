"""The memory plan: what it allows, what it refuses, and that a process keeps to it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from budgeted_run import BALLAST
from hypothesis import given
from hypothesis import strategies as st

from sign_ext.store.budget import Load, parse_size, plan_memory

LOADS = st.builds(
    Load,
    image=st.integers(1, 300_000),
    snapshots=st.integers(1, 4),
    dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    shard=st.integers(1, 5000),
    batch=st.integers(1, 512),
    on_cpu=st.booleans(),
    min_batch=st.none() | st.integers(1, 128),
)


@given(LOADS, st.integers(0, 2**34), st.integers(0, 2**32), st.integers(1, 8))
def test_a_plan_keeps_to_its_budget_or_says_what_would(load, budget, base, ahead):
    try:
        plan = plan_memory(load, budget, base, ahead)
    except ValueError:
        with pytest.raises(ValueError, match=r"\(--memory\) allows"):
            plan_memory(load, budget, base, ahead)
        return
    assert base < plan.bytes <= budget
    assert 1 <= plan.chunk <= load.shard
    assert 1 <= plan.ahead <= ahead
    # Batches are cut alike in every chunk, or there is one chunk a shard.
    cut = plan.chunk % load.batch == 0 or plan.chunk == load.shard
    assert cut or (plan.chunk == load.min_batch and load.min_batch < load.batch)
    # More memory never means less work at a time.
    more = plan_memory(load, 2 * budget, base, ahead)
    assert (more.chunk, more.ahead) >= (plan.chunk, plan.ahead)


def test_the_shard_size_that_it_proposes_fits():
    load = Load(image=268_203, snapshots=2, dtype="float32", shard=4000, batch=32, on_cpu=True)
    with pytest.raises(ValueError, match="shard-size") as refused:
        plan_memory(load, 4 << 30, 1 << 30, 3)
    fits = int(str(refused.value).split("at most ")[1].split(" ")[0].replace(",", ""))
    assert 100 < fits < 4000
    smaller = Load(load.image, 2, "float32", fits, 32, on_cpu=True)
    assert plan_memory(smaller, 4 << 30, 1 << 30, 3).bytes <= 4 << 30
    with pytest.raises(ValueError, match="allows"):
        plan_memory(Load(load.image, 2, "float32", fits + 2, 32, on_cpu=True), 4 << 30, 1 << 30, 3)


def test_a_batch_by_rule_gives_way_to_a_tight_budget():
    """4,224 images of 299×299 are 1.1 GB a chunk, which nobody asked for."""
    asked = Load(image=268_203, snapshots=1, dtype="float32", shard=5000, batch=4224, on_cpu=True)
    base = 2 * asked.shard_bytes
    with pytest.raises(ValueError, match="allows"):
        plan_memory(asked, base + (4 << 30), 0, 3)
    by_rule = replace(asked, min_batch=128)
    assert plan_memory(by_rule, base + (4 << 30), 0, 3).chunk == 128
    assert plan_memory(by_rule, base + (64 << 30), 0, 3).chunk == 4224


def test_sizes_are_read_with_their_units():
    assert parse_size("4GB") == 4 * 10**9
    assert parse_size(" 512 MiB ") == 512 * 2**20
    assert parse_size("1.5e9") == 1_500_000_000
    assert parse_size("7 kib") == 7168
    for wrong in ("", "GB", "four GB", "-1GB", "0", "1 parsec", "1e999GB"):
        with pytest.raises(ValueError, match="accepted: a number with a unit"):
            parse_size(wrong)


@pytest.mark.slow
def test_a_process_keeps_to_its_budget(tmp_path):
    # Neither a larger parent process nor memory freed before the reset may count.
    ballast = np.ones(BALLAST)
    script = Path(__file__).with_name("budgeted_run.py")
    command = [sys.executable, str(script), str(tmp_path / "store")]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result = json.loads(done.stdout)
    if not result["resets"]:
        pytest.skip("this system cannot reset a process's peak memory")
    assert ballast.nbytes > result["before"]
    assert result["stored"] > 1.3 * (result["budget"] - result["before"])
    assert result["before"] < result["peak"] <= result["budget"]
