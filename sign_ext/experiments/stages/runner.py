"""Where stages are done: each once, whole or not at all, its outcome kept in OUT/artefacts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sign_ext.data import Splits
from sign_ext.environment import commit, machine, versions
from sign_ext.experiments.stages.stage import Stage, in_order
from sign_ext.files import write_whole
from sign_ext.formatting import duration, finite
from sign_ext.progress import Reporter, Silent

RECORD = "stage.json"


@dataclass(frozen=True)
class Outcome:
    """A finished stage.

    Attributes:
        stage: that was done.
        folder: with its files.
        numbers: that it returned.
        seconds: it took, over all attempts where it can resume.
    """

    stage: Stage
    folder: Path
    numbers: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class RunContext:
    """What a stage at work is given.

    Attributes:
        device: to compute on.
        outcome: of an input, which is finished by then.
        data: splits of a source, read once.
        data_root: where the data sets' files are.
        report: takes (done, total) as often as one likes.
    """

    device: torch.device
    outcome: Callable[[Stage], Outcome]
    data: Callable[[Any], Splits]
    data_root: str | None
    report: Callable[[int, int], None]


@dataclass
class StageRunner:
    """Runs stages and keeps what comes out.

    Args:
        out: folder; artefacts of earlier runs in it are used again.
        device: to compute on.
        read: reads the splits of a source (see `sources.read_source`).
        reporter: where messages and progress go.
        data_root: where the data sets' files are.
    """

    out: Path
    device: torch.device
    read: Callable[[Any], Splits]
    reporter: Reporter = field(default_factory=Silent)
    data_root: str | None = None
    _outcomes: dict[str, Outcome] = field(default_factory=dict)

    def folder(self, stage: Stage) -> Path:
        """Where a stage's files are, or will be."""
        return self.out / "artefacts" / f"{stage.kind}-{stage.key}"

    def outcome(self, stage: Stage) -> Outcome | None:
        """What a stage gave, or None if it is not finished.

        Raises:
            ValueError: its record is damaged, or belongs to another stage.
        """
        if stage.key not in self._outcomes:
            path = self.folder(stage) / RECORD
            if not path.is_file():
                return None
            self._outcomes[stage.key] = _read(path, stage)
        return self._outcomes[stage.key]

    def done(self, stage: Stage) -> bool:
        """Whether a stage is finished."""
        return self.outcome(stage) is not None

    def missing(self, stages: Sequence[Stage]) -> list[Stage]:
        """The stages that must be run for these, inputs first."""
        needed: dict[str, Stage] = {}

        def need(stage: Stage) -> None:
            # A finished stage's inputs are not needed again, even where they were removed.
            if stage.key in needed or self.done(stage):
                return
            for each in stage.inputs().values():
                need(each)
            needed[stage.key] = stage

        for stage in stages:
            need(stage)
        return list(needed.values())

    def do(self, stages: Sequence[Stage]) -> list[Outcome]:
        """Finish these stages and return their outcomes, in their order."""
        todo = self.missing(stages)
        clock = _TimeLeft([stage.flops() for stage in todo])
        for number, stage in enumerate(todo, start=1):
            if self.done(stage):
                continue
            title = f"[{number}/{len(todo)}] {stage.title()}"
            self.reporter.say(f"{title}{clock.left()}")
            with clock.taking(stage.flops()):
                self._run(stage, title)
        return [self._finished(stage) for stage in stages]

    def _finished(self, stage: Stage) -> Outcome:
        outcome = self.outcome(stage)
        if outcome is None:
            raise RuntimeError(f"{stage.title()} ({stage.key}) is needed before it is done")
        return outcome

    def _run(self, stage: Stage, title: str) -> None:
        folder = self.folder(stage)
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder, self.reporter):
            if self.done(stage):  # by another process, while this one waited
                return
            began = time.monotonic()
            with self.reporter.progress(title) as report:
                context = RunContext(self.device, self._finished, self.read, self.data_root, report)
                numbers = dict(finite(stage.run(context, folder)))
            seconds = float(numbers.pop("seconds", None) or time.monotonic() - began)
            record = {
                "stage": stage.describe(),
                "numbers": numbers,
                "seconds": seconds,
                "flops": stage.flops(),
                "commit": commit(),
                "machine": machine(str(self.device)),
                "versions": versions(),
            }
            # Written last: a folder without it is an attempt that did not finish.
            text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
            write_whole(folder / RECORD, text + "\n")
            stage.tidy(folder)
        self._outcomes[stage.key] = Outcome(stage, folder, numbers, seconds)


def total_seconds(runner: StageRunner, stages: Sequence[Stage]) -> float:
    """The computing time of stages and all that they rest on, each counted once."""
    outcomes = [runner.outcome(stage) for stage in in_order(list(stages))]
    return sum(outcome.seconds for outcome in outcomes if outcome is not None)


def _read(path: Path, stage: Stage) -> Outcome:
    try:
        record = json.loads(path.read_text("utf-8"))
        described, numbers, seconds = record["stage"], record["numbers"], record["seconds"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no record of a stage ({error}): remove the folder {path.parent} to have "
            "the stage done again."
        ) from error
    if described != json.loads(json.dumps(stage.describe())):
        raise ValueError(
            f"{path} belongs to another stage, although the folder has this one's key: remove "
            f"the folder {path.parent}."
        )
    return Outcome(stage, path.parent, numbers, float(seconds))


@contextmanager
def alone(folder: Path, reporter: Reporter) -> Iterator[None]:
    """Hold a folder against other processes, which wait; a process that dies lets go of it.

    Args:
        folder: that is there.
        reporter: told when another process is being waited for.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # no such locks on this system: one process at a time, then
        yield
        return
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reporter.say(f"another process is at work in {folder.name}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _TimeLeft:
    """Guesses the time left from the work that is done and the time it took."""

    def __init__(self, flops: Sequence[float]) -> None:
        self.ahead = sum(flops)
        self.behind = self.seconds = 0.0

    def left(self) -> str:
        if not self.behind or not self.seconds:
            return ""
        return f" (about {duration(self.ahead * self.seconds / self.behind)} left in all)"

    @contextmanager
    def taking(self, flops: float) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.ahead -= flops
        if flops:
            self.behind += flops
            self.seconds += time.monotonic() - began
