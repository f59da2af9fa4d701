"""What a process holds after some calls, to see whether calls leave anything behind."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch


def held(device: torch.device, *, trimmed: bool = False) -> dict[str, int]:
    """Live tensors of this process, and on a GPU the allocator's bytes.

    Args:
        device: whose allocator is asked.
        trimmed: empty the allocator's cache first, with the memory of graphs that were dropped.
    """
    gc.collect()
    # By type alone: isinstance would trigger lazy objects of other libraries.
    found = {"live tensors": sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())}
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        if trimmed:
            torch.cuda.empty_cache()
        found["allocated"] = torch.cuda.memory_allocated(device)
        found["reserved"] = torch.cuda.memory_reserved(device)
    return found


def left_behind(
    call: Callable[[], object],
    device: torch.device,
    *,
    few: int = 100,
    many: int = 1000,
    trimmed: bool = False,
) -> dict[str, int]:
    """What is held after many calls beyond what was held after a few; nothing if all is well.

    Args:
        call: what is called; its result is dropped.
        device: where it works.
        few: calls after which everything that is kept on purpose is there.
        many: calls in all.
        trimmed: see `held`.
    """
    for _ in range(few):
        call()
    before = held(device, trimmed=trimmed)
    for _ in range(many - few):
        call()
    after = held(device, trimmed=trimmed)
    return {name: n - before[name] for name, n in after.items() if n != before[name]}
