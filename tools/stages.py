"""Run commands one after another, each with its own time limit, and report the outcomes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PASSED, FAILED, TIMED_OUT, SKIPPED = "passed", "FAILED", "TIMED OUT", "skipped"
GRACE = 20.0  # seconds between interrupt and kill, in which a stage can write its results
KILL_WAIT = 5.0  # seconds to wait after a kill; a process stuck in a driver may never exit


@dataclass(frozen=True)
class Stage:
    """One command of a check.

    Attributes:
        name: Its name in the table.
        command: The command line; empty if there is nothing to run on this machine.
        limit: Time limit in seconds.
        environ: Environment variables set for this stage only.
        reason: Why there is nothing to run (for an empty command).
        skip_reason: Takes the output of a failed run. Returns why the stage cannot run on this
            machine, in which case it counts as skipped, or None if it is a real failure.
    """

    name: str
    command: Sequence[str]
    limit: float
    environ: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    skip_reason: Callable[[str], str | None] = lambda output: None


@dataclass(frozen=True)
class Outcome:
    """The result of a stage: status, wall-clock seconds and one line of detail."""

    name: str
    status: str
    seconds: float
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """The outcome as plain data for JSON."""
        return {**vars(self), "seconds": round(self.seconds, 1)}


def run_stage(
    stage: Stage, *, seconds_left: float, folder: Path, log: Path, grace: float | None = None
) -> Outcome:
    """Run one stage in its own process group, and interrupt the group at the time limit.

    The interrupt is SIGINT, on which pytest prints its failures and writes its files. Processes
    that still run after the grace period are killed.

    Args:
        stage: What to run.
        seconds_left: Time left for the whole check; it caps the stage's limit.
        folder: Working directory of the command.
        log: File to which the output is appended.
        grace: Seconds from the interrupt to the kill, on top of the limit (default: GRACE).

    Returns:
        The outcome. A command that fails or cannot be started does not raise.
    """
    if not stage.command:
        return Outcome(stage.name, SKIPPED, 0.0, stage.reason)
    limit = min(stage.limit, seconds_left)
    if limit < 1:
        return Outcome(stage.name, TIMED_OUT, 0.0, "no time was left to start it")
    started = time.monotonic()
    with log.open("a+", encoding="utf-8", errors="replace") as output:
        output.write(f"\n==== {stage.name} (limit {limit:.0f} s)\n$ {' '.join(stage.command)}\n")
        output.flush()
        begin = output.tell()
        try:
            process = subprocess.Popen(
                stage.command,
                cwd=folder,
                env={**os.environ, **stage.environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Background jobs of a shell ignore SIGINT, and child processes inherit that.
                preexec_fn=_restore_sigint,
            )
        except OSError as error:
            return Outcome(stage.name, FAILED, 0.0, f"could not be started: {error}")
        code, ending = None, ""
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            ending = _interrupt(process, GRACE if grace is None else grace)
        finally:
            _end_group(process)
        taken = time.monotonic() - started
        output.seek(begin)
        text = output.read()
    detail = last_line(text)
    if code is None:
        return Outcome(stage.name, TIMED_OUT, taken, f"after {limit:.0f} s {ending}; {detail}")
    if code == 0:
        return Outcome(stage.name, PASSED, taken, detail)
    why = stage.skip_reason(text)
    if why is not None:
        return Outcome(stage.name, SKIPPED, taken, why)
    return Outcome(stage.name, FAILED, taken, f"exit status {code}; {detail}")


def _restore_sigint() -> None:
    """Restore the default handling of SIGINT in the child process."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _interrupt(process: subprocess.Popen[Any], grace: float) -> str:
    """Send SIGINT to a stage, wait up to `grace` seconds, and describe the result."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(timeout=grace)
    except subprocess.TimeoutExpired:
        return f"interrupted, {grace:.0f} s later killed"
    return "interrupted"


def _end_group(process: subprocess.Popen[Any]) -> None:
    """Kill all processes that the stage left running, itself included."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=KILL_WAIT)


def last_line(text: str) -> str:
    """The last line with text, without colours and pytest's rulers, cut to 100 characters."""
    for line in reversed(text.splitlines()):
        plain = re.sub(r"\x1b\[[0-9;]*m", "", line).strip().strip("=").strip()
        if plain:
            return plain[:100]
    return "no output"


def run_all(
    stages: Sequence[Stage],
    *,
    seconds: float,
    folder: Path,
    log: Path,
    after: Callable[[list[Outcome]], object] = lambda outcomes: None,
) -> list[Outcome]:
    """Run every stage in order within a total time; a failure does not stop the later ones.

    Args:
        stages: What to run.
        seconds: The total time.
        folder: Working directory of the commands.
        log: File to which their output is appended.
        after: Called after each stage with the outcomes so far.
    """
    deadline = time.monotonic() + seconds
    outcomes: list[Outcome] = []
    for stage in stages:
        print(f"» {stage.name} ...", flush=True)
        left = deadline - time.monotonic()
        outcome = run_stage(stage, seconds_left=left, folder=folder, log=log)
        print(f"  {outcome.status} in {outcome.seconds:.0f} s: {outcome.detail}", flush=True)
        outcomes.append(outcome)
        after(outcomes)
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """Format the outcomes as text, one stage per line."""
    width = max((len(outcome.name) for outcome in outcomes), default=0)
    return "\n".join(
        f"{outcome.name:<{width}}  {outcome.status:<9}  {outcome.seconds:5.0f} s  {outcome.detail}"
        for outcome in outcomes
    )


def succeeded(outcomes: Sequence[Outcome]) -> bool:
    """Whether no stage failed or timed out. A skipped stage is not a failure."""
    return all(outcome.status in (PASSED, SKIPPED) for outcome in outcomes)
