"""Shared by the steps of `make gpu-check GPU_CHECK_ARGS="--part first"`: device, facts, timing."""

from __future__ import annotations

import faulthandler
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from facts import Facts, read
from torch import Tensor

from sign_ext.engine.timing import clock

NEEDS_GPU = "skipped: needs a CUDA device"
QUANTILES = {
    "min": 0.0, "p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99,
    "max": 1.0,
}  # fmt: skip
TURN = 2e-3  # seconds of calls that are timed together, so that launch latency does not dominate


@dataclass(frozen=True)
class Timing:
    """Seconds per call, over several turns after untimed warm-up calls."""

    median: float
    fastest: float
    turns: int

    def us(self, count: float = 1) -> dict[str, float | int]:
        """The timing as fields of a fact, in microseconds, divided by `count`."""
        median, fastest = (1e6 * seconds / count for seconds in (self.median, self.fastest))
        return {"median_us": median, "fastest_us": fastest, "turns": self.turns}


def begin() -> tuple[torch.device, Facts]:
    """The device and the facts of this step; shortly before the limit, a traceback is dumped."""
    limit = float(os.environ.get("FIRST_SECONDS", "0"))
    if limit > 2:
        faulthandler.dump_traceback_later(limit - 1)
    began = float(os.environ.get("FIRST_BEGAN", time.time()))
    file = Path(os.environ.get("FIRST_FACTS", "first.jsonl"))
    torch.manual_seed(0)
    return device_here(), Facts(file, os.environ.get("FIRST_STEP", "by hand"), began)


def device_here() -> torch.device:
    """The device that the check chose, else the GPU if there is one."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(os.environ.get("FIRST_ON", default))


def seconds_left() -> float:
    """The time limit of this step in seconds."""
    return float(os.environ.get("FIRST_SECONDS", "inf"))


def timed(work: Callable[[], object], device: torch.device, *, turns: int = 7) -> Timing:
    """Time calls of a function, after warm-up calls.

    Args:
        work: The function.
        device: The device it runs on.
        turns: Number of turns; on a CPU, which is only a rehearsal, one.
    """
    if device.type == "cpu":
        return Timing(*[clock(work, 1, device)] * 2, turns=1)
    work()
    once = clock(work, 1, device)
    calls = max(1, min(200, round(TURN / max(once, 1e-6))))
    clock(work, calls, device)
    times = [clock(work, calls, device) for _ in range(turns)]
    return Timing(statistics.median(times), min(times), turns)


def earlier_value(facts: Facts, fact: str, value: str) -> float | None:
    """A value that an earlier step recorded, or None.

    Args:
        facts: The facts.
        fact: Name of the fact.
        value: Name of the value.
    """
    for line in reversed(read(facts.file)):
        if line.get("fact") == fact and value in line:
            return float(line[value])
    return None


def share_of_floor(
    facts: Facts, timing: Timing, moved: float, flop: float = 0, precision: str = "bfloat16"
) -> dict[str, float]:
    """The rates of a call and its share of the floor, if the machine's ceilings were measured.

    Args:
        facts: The facts, with the measured ceilings.
        timing: The timing of the call.
        moved: Bytes that the call must read and write.
        flop: Operations that matrix units could do.
        precision: The precision whose matrix-product rate is the ceiling.
    """
    found = {"moved_mb": moved / 1e6, "gb_per_s": moved / timing.median / 1e9}
    if flop:
        found["tflop_per_s"] = flop / timing.median / 1e12
    copy = earlier_value(facts, "copy", "bytes_per_s")
    product = earlier_value(facts, f"product {precision}", "flop_per_s") if flop else None
    if copy:
        floor = max(moved / copy, flop / product if product else 0)
        found["share_of_floor"] = floor / timing.median
    return found


def each_distance(got: Tensor, expected: Tensor) -> Tensor:
    """Relative L2 error of each image, float64 (N,)."""
    error = (got.double() - expected.double()).flatten(1).norm(dim=1)
    return error / expected.double().flatten(1).norm(dim=1).clamp_min(1e-30)


def distribution(errors: Tensor) -> dict[str, float | int]:
    """Quantiles of errors (N,); NaN counts as infinite."""
    ordered = torch.nan_to_num(errors.cpu(), nan=float("inf")).sort().values
    last = len(ordered) - 1
    quantiles = {name: float(ordered[round(share * last)]) for name, share in QUANTILES.items()}
    return {"images": len(ordered), **quantiles}
