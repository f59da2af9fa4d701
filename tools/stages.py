"""Run commands one after the other, each with its own time limit, and tell how it went."""

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
GRACE = 20.0  # seconds that an interrupted stage has to write down what it found
LAST = 5.0  # seconds that a killed one has to end: one that waits for a driver may never do


@dataclass(frozen=True)
class Stage:
    """One command of a check.

    Attributes:
        name: What the table calls it.
        command: The words to run; empty when there is nothing to run here.
        limit: Seconds it may take at most.
        environ: Variables set for it alone.
        reason: Why there is nothing to run (for an empty command).
        excuse: Reads the output of a failed run and returns why it could not run at all on this
            machine (then it counts as skipped), or None when it is a failure.
    """

    name: str
    command: Sequence[str]
    limit: float
    environ: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    excuse: Callable[[str], str | None] = lambda output: None


@dataclass(frozen=True)
class Outcome:
    """How a stage went: its status, its wall-clock seconds, and one line on it."""

    name: str
    status: str
    seconds: float
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {**vars(self), "seconds": round(self.seconds, 1)}


def run_stage(
    stage: Stage, *, seconds_left: float, folder: Path, log: Path, grace: float | None = None
) -> Outcome:
    """Run one stage in its own process group, which is interrupted when its time is up.

    The interrupt is Ctrl-C's: pytest then prints its failures and writes its files. What still runs
    some seconds later is killed.

    Args:
        stage: What to run.
        seconds_left: Time that the whole check still has; less than the stage's limit shortens it.
        folder: Working directory of the command.
        log: File that the output is added to.
        grace: Seconds from the interrupt to the end, on top of the limit (default: GRACE).

    Returns:
        The outcome. Nothing raises for a command that fails or cannot be started.
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
                # A shell's background jobs ignore Ctrl-C, and what they start would too.
                preexec_fn=_hear_interrupts,
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
    why = stage.excuse(text)
    if why is not None:
        return Outcome(stage.name, SKIPPED, taken, why)
    return Outcome(stage.name, FAILED, taken, f"exit status {code}; {detail}")


def _hear_interrupts() -> None:
    """Let the process about to start be ended by Ctrl-C, as programs are by default."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _interrupt(process: subprocess.Popen[Any], grace: float) -> str:
    """Send a stage Ctrl-C and say, after at most `grace` seconds, how it took it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(timeout=grace)
    except subprocess.TimeoutExpired:
        return f"interrupted, {grace:.0f} s later killed"
    return "interrupted"


def _end_group(process: subprocess.Popen[Any]) -> None:
    """End whatever the stage left running, itself included."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=LAST)


def last_line(text: str) -> str:
    """The last line that says something, without colours and pytest's rulers, cut to 100."""
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
        log: File that their output is added to.
        after: Called with the outcomes so far when a stage has ended.
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
    """The outcomes as text, one stage a line."""
    width = max((len(outcome.name) for outcome in outcomes), default=0)
    return "\n".join(
        f"{outcome.name:<{width}}  {outcome.status:<9}  {outcome.seconds:5.0f} s  {outcome.detail}"
        for outcome in outcomes
    )


def succeeded(outcomes: Sequence[Outcome]) -> bool:
    """Whether no stage failed or ran out of time; one that does not apply here is no failure."""
    return all(outcome.status in (PASSED, SKIPPED) for outcome in outcomes)
