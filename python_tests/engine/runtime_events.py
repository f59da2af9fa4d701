"""What in a profile waits for the device, and whether more of it comes with more steps."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch.profiler import ProfilerActivity, profile

# CUDA's runtime and driver calls that wait (a plain cudaMemcpy does), copies between host and
# device as the device saw them, and what torch itself calls when a value is read back.
WAIT = re.compile(
    r"cu(da)?\w*Synchronize(_\w+)?|cudaMemcpy(_\w+)?|Memcpy (DtoH|HtoD)\b.*"
    r"|aten::_local_scalar_dense"
)


def waits(names: Iterable[str]) -> Counter[str]:
    """How often each event that waits for the device, or copies from or to the host, is there."""
    return Counter(name for name in names if WAIT.fullmatch(name))


def profiled(work: Callable[[], object]) -> list[str]:
    """The names of everything that happens in a call, on the device too where there is one."""
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as seen:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return [event.name for event in seen.events()]


def grown(few: Iterable[str], many: Iterable[str]) -> dict[str, int]:
    """The events that wait of which there are more in the second profile, and how many more."""
    return dict(waits(many) - waits(few))
