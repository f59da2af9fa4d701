"""What a command says: messages and progress on stderr, results on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sign_ext.formatting import duration, finite

ProgressCallback = Callable[[int, int], None]

QUIET_SECONDS = 2.0  # shorter work shows no bar
LINE_SECONDS = 15.0  # without a terminal: one plain line about this often


def say(message: str) -> None:
    """Print one message line on stderr."""
    print(message, file=sys.stderr, flush=True)


def print_json(result: Any) -> None:
    """Print `result` as JSON alone on stdout."""
    print(json.dumps(finite(result), indent=2, ensure_ascii=False, allow_nan=False))


def print_rich(renderable: Any) -> None:
    """Print a rich table (or text) on stdout, never narrower than 100 columns in a pipe."""
    console = Console() if sys.stdout.isatty() else Console(width=100)
    console.print(renderable)


@contextmanager
def progress(description: str) -> Iterator[ProgressCallback]:
    """Show how far something is: a bar on a terminal, else an occasional plain line.

    Args:
        description: What is going on, for example "transforming".

    Yields:
        A function of (done, total) to call as often as one likes.

    Example:
        >>> with progress("counting") as report:
        ...     for i in range(10):
        ...         report(i + 1, 10)
    """
    terminal = Console(stderr=True)
    if terminal.is_terminal:
        with _bar(terminal) as bar:
            # The task is started late, so that quick work leaves no trace on the screen.
            task = bar.add_task(description, total=None, visible=False)
            began = time.monotonic()

            def advance(done: int, total: int) -> None:
                late = time.monotonic() - began > QUIET_SECONDS
                bar.update(task, completed=done, total=total, visible=late)

            yield advance
    else:
        yield _plain_lines(description)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def _plain_lines(description: str) -> ProgressCallback:
    began = last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < LINE_SECONDS or done == 0:
            return
        last = now
        left = (now - began) * (total - done) / done
        say(f"{description}: {done}/{total}, about {duration(left)} left")

    return report


# The error that means "the command line is wrong", and the exit codes.


OK = 0
FAILED = 1
USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count it


class UsageError(Exception):
    """A value on the command line that cannot be right; nothing has been done yet."""
