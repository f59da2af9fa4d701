"""The most memory that is alive at once while something runs, as the allocator saw it."""

from __future__ import annotations

from collections.abc import Callable

import torch

# Memory that a library may use meanwhile: cuDNN's workspaces, where it also changes layouts.
SCRATCH = {"cpu": 0, "cuda": 256 << 20}


def check_plan(planned: int, measured: int, device: torch.device, within: float) -> None:
    """A plan's peak is the measured one, apart from the library's scratch memory.

    Args:
        planned: bytes.
        measured: by `peak_bytes`.
        device: where.
        within: the share of the plan that it may be off by.
    """
    assert planned <= measured * (1 + within)
    assert measured <= planned * (1 + within) + SCRATCH[device.type]


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Bytes beyond what was there before.

    Args:
        work: what to run; run once before, so that libraries have what they keep.
        device: where it allocates.
    """
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_stats(device)["requested_bytes.all.current"]
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.memory_stats(device)["requested_bytes.all.peak"] - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak
