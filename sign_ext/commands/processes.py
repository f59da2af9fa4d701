"""One command in several processes: the first tells, the others work in silence."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

from sign_ext.commands.console import FAILED, USAGE, UsageError

if TYPE_CHECKING:
    from sign_ext.training.processes import Processes

# torchrun ends all processes as soon as one is gone; the first is about to say why.
SECONDS_TO_TELL = 1.0


@contextmanager
def rank_zero_output(processes: Processes) -> Iterator[None]:
    """Let only the first process write on stdout and stderr, for the length of the block.

    Args:
        processes: of the command.

    Raises:
        SystemExit: another process than the first ends with an error that the first raises too,
            and so tells. An error that is this process's alone goes on as it is.
    """
    from sign_ext.training.processes import raised_everywhere

    if processes.first:
        yield
        return
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    except Exception as error:
        if raised_everywhere(error):
            time.sleep(SECONDS_TO_TELL)
            raise SystemExit(USAGE if isinstance(error, UsageError) else FAILED) from None
        raise


def require_one_process(command: str) -> None:
    """Refuse to run a command in several processes that would write each other's files.

    Args:
        command: its name.

    Raises:
        UsageError: the launcher started several processes.
    """
    world = os.environ.get("WORLD_SIZE", "1")
    if world != "1":
        raise UsageError(
            f"`sign-ext {command}` runs in one process, and WORLD_SIZE is {world}: start it "
            "without torchrun; `sign-ext transform` and `sign-ext train` share their work"
        )
