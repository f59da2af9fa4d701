"""What the steps of `make gpu-check GPU_CHECK_ARGS="--part first"` share: device, facts, timing."""

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
TURN = 2e-3  # seconds of calls that are timed together, so that no launch is a turn's length


@dataclass(frozen=True)
class Timing:
    """Seconds of a call: of several turns, after calls that were not timed."""

    median: float
    fastest: float
    turns: int

    def us(self, count: float = 1) -> dict[str, float | int]:
        """For a fact, in microseconds, of one of `count` parts."""
        median, fastest = (1e6 * seconds / count for seconds in (self.median, self.fastest))
        return {"median_us": median, "fastest_us": fastest, "turns": self.turns}


def begin() -> tuple[torch.device, Facts]:
    """The device of this step, and where its facts go; a hang shows where it hung."""
    limit = float(os.environ.get("FIRST_SECONDS", "0"))
    if limit > 2:
        faulthandler.dump_traceback_later(limit - 1)
    began = float(os.environ.get("FIRST_BEGAN", time.time()))
    file = Path(os.environ.get("FIRST_FACTS", "first.jsonl"))
    torch.manual_seed(0)
    return device_here(), Facts(file, os.environ.get("FIRST_STEP", "by hand"), began)


def device_here() -> torch.device:
    """As the check says, or else the GPU where there is one."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(os.environ.get("FIRST_ON", default))


def seconds_left() -> float:
    """Of this step, as if it began now: how long it may take."""
    return float(os.environ.get("FIRST_SECONDS", "inf"))


def timed(work: Callable[[], object], device: torch.device, *, turns: int = 7) -> Timing:
    """Time calls; none of the first is counted.

    Args:
        work: what is timed.
        device: where it computes.
        turns: how many; on a CPU, where this only rehearses, one.
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
    """What an earlier step found, or None.

    Args:
        facts: of this step.
        fact: the fact's name.
        value: which of its values.
    """
    for line in reversed(read(facts.file)):
        if line.get("fact") == fact and value in line:
            return float(line[value])
    return None


def share_of_floor(
    facts: Facts, timing: Timing, moved: float, flop: float = 0, precision: str = "bfloat16"
) -> dict[str, float]:
    """How near the machine's measured ceilings a call is, where they are known.

    Args:
        facts: of this step.
        timing: of the call.
        moved: bytes that it reads and writes at least.
        flop: operations that matrix units could do.
        precision: whose rate of products counts.
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
    """Relative L2 distance of each image, float64 (N,)."""
    error = (got.double() - expected.double()).flatten(1).norm(dim=1)
    return error / expected.double().flatten(1).norm(dim=1).clamp_min(1e-30)


def distribution(errors: Tensor) -> dict[str, float | int]:
    """Quantiles of errors (N,); what is not finite counts as infinite."""
    ordered = torch.nan_to_num(errors.cpu(), nan=float("inf")).sort().values
    last = len(ordered) - 1
    quantiles = {name: float(ordered[round(share * last)]) for name, share in QUANTILES.items()}
    return {"images": len(ordered), **quantiles}
