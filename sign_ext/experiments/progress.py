"""How an experiment tells how far it is, and how long its stages took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol


class Reporter(Protocol):
    """Where the demo tells how far it is: `say` a line, or a `progress` bar over (done, total)."""

    def say(self, message: str, /) -> None:
        """Tell one line."""

    def progress(self, description: str, /) -> AbstractContextManager[Callable[[int, int], None]]:
        """Open a bar; what it yields is called with (done, total)."""


class Silent:
    """A reporter that says nothing."""

    def say(self, message: str, /) -> None:
        """Say nothing."""

    def progress(self, description: str, /) -> AbstractContextManager[Callable[[int, int], None]]:
        """Show nothing."""
        return nullcontext(lambda done, total: None)


class Clock:
    """Seconds a stage, added up over repetitions; `with clock("training"): …`."""

    def __init__(self) -> None:
        """Start with no stage."""
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time of the block to `stage`."""
        began = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began

    def total(self) -> float:
        """Return the seconds of all stages."""
        return sum(self.seconds.values())
