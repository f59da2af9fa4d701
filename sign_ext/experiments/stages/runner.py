"""Runs stages: each once, complete or not at all, with its outcome kept in OUT/artefacts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from sign_ext.data import Splits
from sign_ext.environment import commit, machine, versions
from sign_ext.experiments.stages.sources import Source
from sign_ext.experiments.stages.stage import (
    Outcome,
    RunContext,
    Stage,
    StageRefusedError,
    topological_order,
)
from sign_ext.files import json_text, read_json, require_schema, write_whole
from sign_ext.formatting import duration, finite
from sign_ext.progress import Reporter, Silent

RECORD = "stage.json"
LOCK = ".lock"
MADE = ("commit", "device", "threads")


@dataclass
class StageRunner:
    """Runs stages and keeps their outcomes.

    Args:
        out: folder; artefacts of earlier runs in it are reused.
        device: to compute on.
        read: reads the splits of a source (see `sources.read_source`).
        reporter: where messages and progress go.
        data_root: where the data sets' files are.

    Attributes:
        refused: the key of each stage that cannot be done → why, see `StageRefusedError`.
    """

    out: Path
    device: torch.device
    read: Callable[[Source], Splits]
    reporter: Reporter = field(default_factory=Silent)
    data_root: str | None = None
    refused: dict[str, str] = field(default_factory=dict, init=False)
    _outcomes: dict[str, Outcome] = field(default_factory=dict)

    def folder(self, stage: Stage) -> Path:
        """Where a stage's files are, or will be."""
        return self.out / "artefacts" / stage.artefact

    def outcome(self, stage: Stage) -> Outcome | None:
        """A stage's outcome, or None if it is not finished.

        Raises:
            ValueError: its record is damaged, or belongs to another stage.
        """
        if stage.key not in self._outcomes:
            path = self.folder(stage) / RECORD
            if not path.exists():
                return None
            self._outcomes[stage.key] = _read_record(path, stage)
        return self._outcomes[stage.key]

    def done(self, stage: Stage) -> bool:
        """Whether a stage is finished."""
        return self.outcome(stage) is not None

    def missing(self, stages: Sequence[Stage]) -> list[Stage]:
        """The stages that must be run for these, inputs first."""
        needed: dict[str, Stage] = {}

        def need(stage: Stage) -> None:
            # A finished stage's inputs are not needed again, even if they were removed.
            if stage.key in needed or self.done(stage):
                return
            for each in stage.inputs().values():
                need(each)
            needed[stage.key] = stage

        for stage in stages:
            need(stage)
        return list(needed.values())

    def run(self, stages: Sequence[Stage]) -> list[Outcome]:
        """Finish these stages and return their outcomes, in their order.

        Raises:
            StageRefusedError: one of them cannot be done; all others are.
        """
        self.attempt(stages)
        for stage in stages:
            if stage.key in self.refused:
                raise StageRefusedError(self.refused[stage.key])
        return [self._finished(stage) for stage in stages]

    def attempt(self, stages: Sequence[Stage]) -> None:
        """Finish these stages but those that are refused, and those that need one of these."""
        todo = self.missing(stages)
        estimate = _TimeLeft([stage.flops() for stage in todo])
        for number, stage in enumerate(todo, start=1):
            if self.done(stage) or stage.key in self.refused:
                continue
            reasons = [
                self.refused[each.key]
                for each in stage.inputs().values()
                if each.key in self.refused
            ]
            if reasons:
                self.refused[stage.key] = reasons[0]
                continue
            title = f"[{number}/{len(todo)}] {stage.title()}"
            self.reporter.say(f"{title}{estimate.left()}")
            with estimate.timed(stage.flops()):
                try:
                    self._run_one(stage, title)
                except StageRefusedError as error:
                    self.refused[stage.key] = str(error)
                    self.reporter.say(f"left out, with all that needs it: {error}")

    def _finished(self, stage: Stage) -> Outcome:
        outcome = self.outcome(stage)
        if outcome is None:
            raise RuntimeError(f"{stage.title()} ({stage.key}) is needed before it is done")
        return outcome

    def _run_one(self, stage: Stage, title: str) -> None:
        folder = self.folder(stage)
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(folder, self.reporter):
            if self.done(stage):  # another process finished it while this one waited
                return
            began = time.monotonic()
            with self.reporter.progress(title) as report:
                context = RunContext(self.device, self._finished, self.read, self.data_root, report)
                numbers = dict(finite(stage.run(context, folder)))
            # Stages that resume return the seconds of all attempts themselves.
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
            text = json_text(record, indent=1, allow_nan=False)
            write_whole(folder / RECORD, text + "\n")
            stage.clean_up(folder)
        if warning := stage.warning(numbers):
            self.reporter.say(f"{stage.title()}: {warning}")
        self._outcomes[stage.key] = Outcome(stage, folder, numbers, seconds, _made(record))


def how_made(runner: StageRunner, stages: Sequence[Stage]) -> dict[str, str]:
    """With which commits, devices and numbers of threads stages and their inputs were made."""
    outcomes = [runner.outcome(stage) for stage in topological_order(stages)]
    return {
        name: ", ".join(found)
        for name in MADE
        if (found := sorted({o.made[name] for o in outcomes if o and name in o.made}))
    }


def total_seconds(runner: StageRunner, stages: Sequence[Stage]) -> float:
    """The computing time of stages and all their inputs, each counted once."""
    outcomes = [runner.outcome(stage) for stage in topological_order(stages)]
    return sum(outcome.seconds for outcome in outcomes if outcome is not None)


@contextmanager
def exclusive_lock(folder: Path, reporter: Reporter) -> Iterator[None]:
    """Hold a folder's lock; other processes wait for it.

    The operating system releases the lock when its holder dies; the file stays and means nothing.

    Args:
        folder: an existing folder.
        reporter: told when another process is being waited for.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        reporter.say(f"waiting for another process that is working in {folder.name}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _read_record(path: Path, stage: Stage) -> Outcome:
    from sign_ext.experiments.stages.stage import RecordPart

    try:
        record = read_json(path)
        require_schema(RecordPart, record, str(path))
    except ValueError as error:
        raise ValueError(
            f"{error}. It is not a stage's record: remove the folder {path.parent}, and the stage "
            "will be run again."
        ) from error
    described, numbers, seconds = record["stage"], record["numbers"], record["seconds"]
    if described != json.loads(json.dumps(stage.describe())):
        raise ValueError(
            f"{path} belongs to another stage, although its folder has this stage's key: remove "
            f"the folder {path.parent}."
        )
    return Outcome(stage, path.parent, numbers, float(seconds), _made(record))


def _made(record: Mapping[str, Any]) -> dict[str, str]:
    """Return what a record says of how it was made."""
    told = record.get("machine")
    found = {"commit": record.get("commit"), **(told if isinstance(told, Mapping) else {})}
    return {name: str(found[name]) for name in MADE if found.get(name)}


class _TimeLeft:
    """Estimates the time left from the operations done so far and the time they took."""

    def __init__(self, flops: Sequence[float]) -> None:
        self.flops_left = sum(flops)
        self.flops_done = self.seconds = 0.0

    def left(self) -> str:
        if not self.flops_done or not self.seconds:
            return ""
        seconds = self.flops_left * self.seconds / self.flops_done
        return f" (about {duration(seconds)} left in all)"

    @contextmanager
    def timed(self, flops: float) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.flops_left -= flops
        if flops:
            self.flops_done += flops
            self.seconds += time.monotonic() - began
