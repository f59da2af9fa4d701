"""Telling how far a long call is: a rich bar, or the caller's own function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
