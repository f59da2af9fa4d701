"""How much memory a call takes beyond what was there before it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Usage:
    """What a call allocated, in bytes beyond what was there before it.

    Attributes:
        most: at once, during the call.
        kept: still there after it.
    """

    most: int
    kept: int


def usage(work: Callable[[], object], device: torch.device) -> Usage:
    """What a call allocates.

    Counts what torch's allocators give: on a GPU their own statistics; on a CPU each allocation
    and release that torch's profiler saw, added up. What a library takes from the system by itself
    (oneDNN's scratch memory) is not seen.

    Args:
        work: the call; what it returns is released before this returns.
        device: where it allocates.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        most = torch.cuda.max_memory_allocated(device)
        return Usage(most - before, torch.cuda.memory_allocated(device) - before)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler reports each start and stop
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    results = profiled.profiler.kineto_results  # type: ignore[union-attr]
    events = [event for event in results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return Usage(most, held)


def step_bytes(run: Callable[[Tensor], Tensor], images: Tensor) -> int:
    """Peak bytes of a step beyond weights, images and the result.

    A second call is measured, and what the first one left (buffers, packed copies of weights)
    counts in full. On a GPU the first call's own peak counts too: what a recorded graph works in
    shows only while it is recorded.

    Args:
        run: from images to a new tensor of as many float32; not called before.
        images: (N, C, H, W).
    """
    first = usage(lambda: run(images), images.device)
    second = usage(lambda: run(images), images.device)
    most = first.kept + second.most
    if images.is_cuda:
        most = max(most, first.most)
    return most - images.numel() * 4
