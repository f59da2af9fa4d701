"""Time and memory of a call: contenders take turns, and allocations are counted."""

from __future__ import annotations

import itertools
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from sign_ext.engine.timing import clock

Work = Callable[[], object]


class Turns:
    """Contenders that take turns, so that a busy machine slows all of them alike.

    Args:
        contenders: name → what to call. All do the same work at equal precision.
        device: where they compute.
        calls: calls per turn, timed as one.

    Attributes:
        times: name → seconds of a call, one for each round.

    Example:
        >>> turns = Turns({"sum": lambda: sum(range(9))}, torch.device("cpu"))
        >>> turns.round()
        >>> len(turns.times["sum"])
        1
    """

    def __init__(
        self, contenders: Mapping[str, Work], device: torch.device, calls: int = 1
    ) -> None:
        """Prepare the contenders; nothing is timed yet."""
        self.contenders = dict(contenders)
        self.times: dict[str, list[float]] = {name: [] for name in contenders}
        self._device = device
        self._calls = calls

    def round(self) -> None:
        """Time each contender once."""
        for name, work in self.contenders.items():
            self.times[name].append(clock(work, self._calls, self._device))

    def medians(self) -> dict[str, float]:
        """Return name → median seconds; call `round` first."""
        return {name: statistics.median(times) for name, times in self.times.items()}


def mirrored(images: Tensor) -> list[Tensor]:
    """Return images (N, C, H, W) flipped along the batch, flipped along the width, and as given."""
    return [images.flip(0), images.flip(3), images]


def on_each(run: Callable[[Tensor], object], inputs: Sequence[Tensor]) -> Work:
    """Return a function that calls `run` with the next input each time, so that none stays cached.

    Args:
        run: what to call.
        inputs: the inputs, used in turn.
    """
    remaining = itertools.cycle(inputs)
    return lambda: run(next(remaining))


@dataclass(frozen=True)
class MemoryUsage:
    """What a call allocated, in bytes beyond what was allocated before it.

    Attributes:
        peak: the most during the call.
        kept: still allocated after it.
    """

    peak: int
    kept: int


def memory_usage(work: Callable[[], object], device: torch.device) -> MemoryUsage:
    """Measure what a call allocates.

    On a GPU this is the statistics of torch's allocator; on a CPU the running sum of the
    allocations and releases that torch's profiler records. Memory that a library takes from the
    system directly (oneDNN's scratch memory) is not counted.

    Args:
        work: the call; its result is released before this returns.
        device: where it allocates.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device)
        return MemoryUsage(peak - before, torch.cuda.memory_allocated(device) - before)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler logs each start and stop
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    results = profiled.profiler.kineto_results  # type: ignore[union-attr]
    events = [event for event in results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return MemoryUsage(peak, held)


def step_bytes(run: Callable[[Tensor], Tensor], images: Tensor) -> int:
    """Measure the peak bytes of a step beyond weights, images and the result.

    The second call is measured, plus what the first one left allocated (buffers, packed weights).
    On a GPU the first call's own peak counts too: a CUDA graph's working memory is visible only
    while the graph is recorded.

    Args:
        run: images → a new float32 tensor of the same size; not called before.
        images: (N, C, H, W).
    """
    first = memory_usage(lambda: run(images), images.device)
    second = memory_usage(lambda: run(images), images.device)
    peak = first.kept + second.peak
    if images.is_cuda:
        peak = max(peak, first.peak)
    return peak - images.numel() * 4
