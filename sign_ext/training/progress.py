"""How a training run tells how far it is.

The protocol is iterative_sign's: a callable(done, total), here in gradient steps, called once
before the first step (done is above 0 when a run is resumed) and after each step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

ProgressCallback = Callable[[int, int], object]


@contextmanager
def reporting(progress: bool | ProgressCallback) -> Iterator[ProgressCallback]:
    """Turn a `progress` argument into a callable: nothing, a rich bar on stderr, or its own.

    Raises:
        TypeError: progress is neither a bool nor callable.
    """
    if callable(progress):
        yield progress
    elif progress is False:
        yield lambda done, total: None
    elif progress is True:
        with _bar() as callback:
            yield callback
    else:
        raise TypeError(f"progress must be a bool or a callable(done, total); got {progress!r}.")


@contextmanager
def _bar() -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("training", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("training", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
