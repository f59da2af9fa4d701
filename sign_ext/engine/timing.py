"""How long a call takes: on a GPU by its own clock, since a launch returns before its end."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def clock(work: Callable[[], object], calls: int, device: torch.device) -> float:
    """Seconds that one of several calls takes, by CUDA events on a GPU and by the clock else.

    Args:
        work: what is timed.
        calls: how often, together: more where one call is shorter than a launch.
        device: where it computes.

    Example:
        >>> clock(lambda: sum(range(9)), 10, torch.device("cpu")) < 1
        True
    """
    if device.type != "cuda":
        started = time.perf_counter()
        for _ in range(calls):
            work()
        return (time.perf_counter() - started) / calls
    with torch.cuda.device(device):
        torch.cuda.synchronize(device)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(calls):
            work()
        end.record()
        end.synchronize()
    return begin.elapsed_time(end) / 1e3 / calls
