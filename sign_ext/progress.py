"""Progress of long work: a bar or the caller's function for a call, a reporter for a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

Progress = bool | Callable[[int, int], None]


@contextmanager
def reporting(progress: Progress, total: int, title: str) -> Iterator[Callable[[int], None] | None]:
    """Yield a function to call with the amount done so far, or None where `progress` is False.

    Args:
        progress: False; True for a bar on standard error; or a function of (done, total).
        total: the amount of work.
        title: the bar's text.

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
                "progress=True draws its bar with rich: pip install rich, or "
                "pass a function of (done, total)"
            ) from error
        with Bar(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=total)
            yield lambda done: bar.update(task, completed=done)
    elif callable(progress):
        yield lambda done: progress(done, total)
    else:
        raise TypeError(f"progress must be True, False or a function, got {progress!r}")


class Reporter(Protocol):
    """Shows the progress of a run of many stages: lines, and bars over (done, total)."""

    def say(self, message: str, /) -> None:
        """Print one line."""

    def progress(self, description: str, /) -> AbstractContextManager[Callable[[int, int], None]]:
        """Open a bar; what it yields is called with (done, total)."""


class Silent:
    """A reporter that shows nothing."""

    def say(self, message: str, /) -> None:
        """Print nothing."""

    def progress(self, description: str, /) -> AbstractContextManager[Callable[[int, int], None]]:
        """Show nothing."""
        return nullcontext(lambda done, total: None)


class Clock:
    """Seconds of each stage, summed over repetitions: `with clock("training"): …`."""

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
