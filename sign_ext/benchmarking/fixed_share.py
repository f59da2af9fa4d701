"""Whether a timed call was large enough for a forecast, by the share of it that does not grow.

A call takes a fixed time, a time for each step and one for each image. With few steps or images
the fixed part is most of what was timed, and a forecast multiplies it by the size of the set.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from sign_ext.benchmarking.contenders import ours
from sign_ext.benchmarking.measure import Turns, mirrored, on_each
from sign_ext.benchmarking.task import Task

LARGE = 0.2  # a share from which a forecast is far too long
SMALL = 0.1  # the share at a size that is proposed
QUICK = 1.0  # seconds of a call that is timed several times
ROUNDS = 3


@dataclass(frozen=True)
class FixedShare:
    """The part of a call's time that does not grow with its steps, or with its images.

    Attributes:
        option: of `sign-ext bench`, "--steps" or "--images".
        size: what was timed.
        share: of the call's time, 0–1.
        enough: a size at which the share is at most 10%.

    Example:
        >>> print(FixedShare("--steps", 2, 0.6, 27))
        --steps 2 is too small for a forecast: 60% of a timed call does not grow with it; \
give --steps 27
    """

    option: str
    size: int
    share: float
    enough: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the sentence as plain data."""
        return {**asdict(self), "sentence": str(self)}

    def __str__(self) -> str:
        """Return what to do about it."""
        return (
            f"{self.option} {self.size} is too small for a forecast: {self.share:.0%} of a timed "
            f"call does not grow with it; give {self.option} {self.enough}"
        )


def fixed_share(option: str, sizes: tuple[int, int], seconds: tuple[float, float]) -> FixedShare:
    """Fit a + b·n through two times, and return the share of a in the time of the first size.

    Args:
        option: as in `FixedShare`.
        sizes: what was timed in the race, and another size.
        seconds: of a call with each.

    Example:
        >>> found = fixed_share("--steps", (2, 4), (1.0, 1.2))
        >>> round(found.share, 3), found.enough
        (0.8, 72)
    """
    size, other = sizes
    each = max(0.0, (seconds[1] - seconds[0]) / (other - size))
    share = min(1.0, max(0.0, 1 - each * size / seconds[0]))
    variable = max(1 - share, 1e-3)  # of noise: as many as that are always enough
    wanted = size * share / variable * (1 - SMALL) / SMALL
    return FixedShare(option, size, share, max(size, math.ceil(wanted - 1e-9)))


def fixed_shares(task: Task, backend: str, *, steps: int, images: int) -> list[FixedShare]:
    """Measure which sizes of a race were too small for a forecast of a larger set.

    A call is timed again, in turns with calls of half its steps and of half its images.

    Args:
        task: the race's work.
        backend: of the forecast.
        steps: the set's K; fewer are looked at.
        images: at a time, for the set; fewer are looked at.

    Returns:
        Those of which more than 20% does not grow; what is enough is at most `steps`, or `images`.
    """
    count = len(task.images)
    others: dict[str, tuple[int, int, int]] = {}  # what was timed, what is too, what the set takes
    tasks = {"timed": task}
    if count < images:
        other = count // 2 or 2
        others["--images"] = (count, other, images)
        some = task.images.repeat(2, 1, 1, 1)[:other]  # one image becomes two
        tasks["--images"] = replace(task, images=some)
    if task.steps < steps:
        other = task.steps // 2 or 2
        others["--steps"] = (task.steps, other, steps)
        tasks["--steps"] = replace(task, steps=other)
    if not others:
        return []
    times = _times({name: _work(each, backend) for name, each in tasks.items()}, task)
    found = []
    for option, (size, other, most) in others.items():
        share = fixed_share(option, (size, other), (times["timed"], times[option]))
        if share.share > LARGE:
            found.append(replace(share, enough=min(share.enough, most)))
    return found


def _work(task: Task, backend: str) -> Callable[[], object]:
    return on_each(ours(task, backend), mirrored(task.images))


def _times(work: dict[str, Callable[[], object]], task: Task) -> dict[str, float]:
    """Time calls in turns; the first of each, which compiles, is not counted."""
    turns = Turns(work, task.images.device)
    turns.round()
    first = max(times.pop() for times in turns.times.values())
    for _ in range(ROUNDS if first < QUICK else 1):
        turns.round()
    return turns.medians()
