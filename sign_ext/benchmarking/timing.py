"""Contenders take turns, so that a busy machine slows all of them alike; medians are compared."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from sign_ext.engine.timing import clock

Work = Callable[[], object]


class Turns:
    """Contenders that take turns, and their times.

    Args:
        contenders: name → what to call. All do the same work at equal precision.
        device: where they compute.
        calls: calls a turn, timed together.

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
        """Nothing is timed yet."""
        self.contenders = dict(contenders)
        self.times: dict[str, list[float]] = {name: [] for name in contenders}
        self._device = device
        self._calls = calls

    def round(self) -> None:
        """Time each contender once."""
        for name, work in self.contenders.items():
            self.times[name].append(clock(work, self._calls, self._device))

    def medians(self) -> dict[str, float]:
        """Name → median seconds; at least one round has been."""
        return {name: statistics.median(of) for name, of in self.times.items()}


def mirrored(images: Tensor) -> list[Tensor]:
    """Images (N, C, H, W) and two mirror images of them, all different."""
    return [images.flip(0), images.flip(3), images]


def on_each(run: Callable[[Tensor], object], inputs: Sequence[Tensor]) -> Work:
    """Call `run` with the next of several inputs each time, so that no result stays in a cache.

    Args:
        run: what to call.
        inputs: they take turns.
    """
    following = itertools.cycle(inputs)
    return lambda: run(next(following))
