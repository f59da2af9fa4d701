"""How long a call takes, and the most that this machine can do in that time."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

REPEATS = 5  # of each measurement of a ceiling, of which the fastest counts


def clock(work: Callable[[], object], calls: int, device: torch.device) -> float:
    """Seconds that one of several calls takes.

    On a GPU they are timed by CUDA events on the stream, since a launch returns before the work is
    done; elsewhere by the host's clock.

    Args:
        work: what is timed.
        calls: how often it is called in one measurement: more where a call is shorter than its
            launch.
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


@dataclass(frozen=True)
class Ceilings:
    """The most that a device does, measured once in a process.

    Attributes:
        flops: floating-point operations a second of a large matrix product.
        bandwidth: bytes a second of a large copy, read and written.
    """

    flops: float
    bandwidth: float


@functools.cache
def ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Measure a device, in well under a second.

    Args:
        device: where.
        dtype: of the products; float32 runs as the caller's TF32 switches say.
    """
    on_cuda = device.type == "cuda"
    size = 8192 if on_cuda else 1024
    a = torch.randn(size, size, device=device, dtype=dtype)
    b = torch.randn(size, size, device=device, dtype=dtype)
    out = torch.empty_like(a)
    product = _fastest(lambda: torch.mm(a, b, out=out), device)
    source = torch.randn((1 << 28 if on_cuda else 1 << 24), dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    copy = _fastest(lambda: target.copy_(source), device)
    copied = 2 * source.numel() * source.element_size()
    return Ceilings(2 * size**3 / product, copied / copy)


def _fastest(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of a few runs, after one to warm up."""
    work()
    return min(clock(work, 1, device) for _ in range(REPEATS))
