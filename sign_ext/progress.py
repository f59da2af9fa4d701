"""Telling how far a long call is: a rich bar, or the caller's own function."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

Progress = bool | Callable[[int, int], None]


@contextmanager
def reporting(progress: Progress, total: int, what: str) -> Iterator[Callable[[int], None] | None]:
    """Yield a function to call with the amount done so far, or None where nobody listens.

    Args:
        progress: False; True for a bar on standard error; or a function of (done, total).
        total: the amount of work.
        what: the bar's text.

    Raises:
        ImportError: `progress` is True and rich is not installed.
        TypeError: `progress` is neither a bool nor callable.
    """
    if progress is False:
        yield None
    elif progress is True:
        try:
            from rich.console import Console
            from rich.progress import Progress as Bar
        except ImportError as error:
            raise ImportError(
                'progress=True draws its bar with rich: pip install "sign-ext[experiments]", or '
                "pass a function of (done, total)"
            ) from error
        with Bar(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)
    elif callable(progress):
        yield lambda done: progress(done, total)
    else:
        raise TypeError(f"progress must be True, False or a function, got {progress!r}")


# How an experiment tells how far it is, and how long its stages took.


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
