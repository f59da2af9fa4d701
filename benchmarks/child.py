"""Run a function in a process of its own, with limits of time and memory.

A network that fills the memory, hangs or ends its process costs its own row only.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

with contextlib.suppress(ImportError):  # not on every system; then memory is not limited
    import resource


class ChildFailed(RuntimeError):
    """The function did not return: it raised, took too long, or its process ended."""


def in_child(
    function: Callable[..., Any], *arguments: Any, seconds: float, gigabytes: float
) -> Any:
    """Call a function in a new process and return its result.

    Args:
        function: At the top level of a module; its result can be pickled.
        *arguments: For the function.
        seconds: The process is ended after this long.
        gigabytes: Of memory that the process may allocate (`RLIMIT_DATA`).

    Raises:
        ChildFailed: With the reason in one line.
    """
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    here, there = context.Pipe(duplex=False)
    process = context.Process(
        target=_call, args=(there, int(gigabytes * 2**30), function, arguments), daemon=False
    )
    process.start()
    there.close()
    try:
        if not here.poll(seconds):
            raise ChildFailed(f"took longer than {seconds:g} s")
        ok, value = here.recv()
    except EOFError:
        process.join()
        raise ChildFailed(f"its process ended: {_ending(process.exitcode)}") from None
    finally:
        if process.is_alive():
            process.join(2)
        if process.is_alive():
            process.kill()
        process.join()
        here.close()
    if not ok:
        raise ChildFailed(value)
    return value


def _call(
    pipe: Connection, most: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    with contextlib.suppress(NameError, ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    try:
        result: tuple[bool, Any] = (True, function(*arguments))
    except BaseException as error:
        text = str(error).strip().partition("\n")[0]
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        result = (False, f"{type(error).__name__}: {text[:300]} ({where})")
    pipe.send(result)
    pipe.close()


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit status {code}"
