"""What a command prints: messages and progress on stderr, results on stdout; and its exit code."""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any, TextIO

from sign_ext.files import json_text
from sign_ext.formatting import duration, finite

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from sign_ext.training.processes import Processes

OK = 0
FAILED = 1
USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count it
OUTPUT_CLOSED = 141  # 128 + SIGPIPE

ProgressCallback = Callable[[int, int], None]

QUIET_SECONDS = 2.0  # shorter work shows no bar
LINE_SECONDS = 15.0  # without a terminal: interval of plain lines
# torchrun ends all processes as soon as one exits; this gives the first time to report the error.
REPORT_SECONDS = 1.0


class UsageError(Exception):
    """The command line is wrong; nothing has been done yet."""


def say(message: str) -> None:
    """Print one message line on stderr."""
    print(message, file=sys.stderr, flush=True)


def print_json(result: Any) -> None:
    """Print `result` as JSON alone on stdout."""
    print(json_text(finite(result), indent=2, allow_nan=False))


def print_rich(renderable: Any) -> None:
    """Print a rich table (or text) on stdout, in a pipe as wide as COLUMNS says, or 100 columns.

    Its text is printed as it is: in the name of a class, "[b]" and ":cat:" mean nothing.
    """
    from rich.console import Console

    class PipeConsole(Console):
        """Leaves a closed pipe to `cli.main`; rich's own way is to exit with code 1."""

        def on_broken_pipe(self) -> None:
            """Raise it on."""
            raise

    known = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()  # rich finds it out
    width = None if known else 100
    PipeConsole(width=width, markup=False, emoji=False).print(renderable)


def tolerate_any_text(stream: Any) -> None:
    """Let a stream print every text, also one that its encoding cannot represent.

    The bytes of a file name that is not in the system's encoding are written as they are
    (surrogateescape), other such characters as escapes (backslashreplace).

    Args:
        stream: stdout, or what takes its place.
    """
    codecs.register_error("sign_ext", _escape)
    if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
        stream.reconfigure(errors="sign_ext")


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def close_output() -> None:
    """Send what is still printed nowhere, because nobody reads it or it cannot be written.

    Python writes the rest of its buffers when it exits, and reports that it could not.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
            lost = _has_no_reader(stream)  # where nothing was left to write, too
        except OSError:
            lost = True
        if lost:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def output_is_closed() -> bool:
    """Return whether the reader of stdout or stderr has gone, as with `| head -1`."""
    return any(_has_no_reader(stream) for stream in (sys.stdout, sys.stderr))


def _has_no_reader(stream: TextIO | None) -> bool:
    if stream is None:
        return False
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # errors are always reported
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # replaced by something else
        return False


@contextmanager
def progress(description: str) -> Iterator[ProgressCallback]:
    """Show progress: a bar on a terminal, otherwise a plain line now and then.

    Args:
        description: The work, for example "transforming".

    Yields:
        A function of (done, total), to be called any number of times.

    Example:
        >>> with progress("counting") as report:
        ...     for i in range(10):
        ...         report(i + 1, 10)
    """
    from rich.console import Console

    terminal = Console(stderr=True)
    if terminal.is_terminal:
        with _bar(terminal) as bar:
            # Shown late, so that quick work leaves no trace on the screen.
            task = bar.add_task(description, total=None, visible=False)
            began = time.monotonic()

            def advance(done: int, total: int) -> None:
                late = time.monotonic() - began > QUIET_SECONDS
                bar.update(task, completed=done, total=total, visible=late)

            yield advance
    else:
        yield _plain_lines(description)


def _bar(console: Console) -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
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


@contextmanager
def rank_zero_output(processes: Processes) -> Iterator[None]:
    """Silence stdout and stderr in all processes but the first, inside the block.

    Args:
        processes: of the command.

    Raises:
        SystemExit: in another process, in place of an error that the first process raises and
            reports too. Errors of a single process are raised unchanged.
    """
    from sign_ext.training.processes import raised_everywhere

    if processes.first:
        yield
        return
    try:
        with open(os.devnull, "w") as null, redirect_stdout(null), redirect_stderr(null):
            yield
    except Exception as error:
        if raised_everywhere(error):
            time.sleep(REPORT_SECONDS)
            raise SystemExit(USAGE if isinstance(error, UsageError) else FAILED) from None
        raise
