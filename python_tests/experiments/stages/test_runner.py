"""A runner runs each stage once, complete or not at all."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from sign_ext.experiments.stages.runner import (
    RECORD,
    StageRunner,
    exclusive_lock,
    how_made,
    total_seconds,
)
from sign_ext.experiments.stages.stage import Stage
from sign_ext.progress import Silent


@dataclass(frozen=True, eq=False)
class Number(Stage):
    kind: ClassVar[str] = "number"
    version: ClassVar[int] = 1

    value: float

    def run(self, context, folder):
        (folder / "runs").open("a").write("x")
        return {"value": self.value}


@dataclass(frozen=True, eq=False)
class Sum(Stage):
    kind: ClassVar[str] = "sum"
    version: ClassVar[int] = 1

    parts: tuple[Stage, ...]
    scale: float = 1.0

    def run(self, context, folder):
        context.report(1, 1)
        total = sum(context.outcome(part).numbers["value"] for part in self.parts)
        return {"value": self.scale * total, "nothing": float("nan")}


@dataclass(frozen=True, eq=False)
class Fails(Number):
    kind: ClassVar[str] = "fails"

    def run(self, context, folder):
        (folder / "half").write_text("half")
        raise RuntimeError("on purpose")


@dataclass(frozen=True, eq=False)
class Dies(Number):
    kind: ClassVar[str] = "dies"

    def run(self, context, folder):
        (folder / "half").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def runner(tmp_path, **options):
    return StageRunner(tmp_path, torch.device("cpu"), read=lambda source: None, **options)


def runs(tmp_path, stage):
    return len((runner(tmp_path).folder(stage) / "runs").read_text())


def test_each_stage_runs_once_also_for_the_next_runner(tmp_path):
    a, b = Number(1.5), Number(2.5)
    (outcome,) = runner(tmp_path).run([Sum((a, b), 2.0)])
    assert outcome.numbers == {"value": 8.0, "nothing": None}
    again = runner(tmp_path)
    assert again.missing([Sum((a, b), 2.0)]) == []
    assert again.run([Sum((a, b), 2.0), Sum((a,))])[1].numbers["value"] == 1.5
    assert runs(tmp_path, a) == runs(tmp_path, b) == 1


def test_inputs_of_a_finished_stage_are_not_needed_again(tmp_path):
    stage = Sum((Number(1.0),))
    runner(tmp_path).run([stage])
    (runner(tmp_path).folder(Number(1.0)) / RECORD).unlink()
    assert runner(tmp_path).missing([stage]) == []


def test_a_stage_that_fails_is_not_done(tmp_path):
    work = runner(tmp_path)
    with pytest.raises(RuntimeError, match="on purpose"):
        work.run([Fails(1.0)])
    assert not runner(tmp_path).done(Fails(1.0))
    assert (work.folder(Fails(1.0)) / "half").exists()


def test_a_killed_process_releases_its_lock_and_leaves_nothing_done(tmp_path):
    context = multiprocessing.get_context("fork")
    process = context.Process(target=lambda: runner(tmp_path).run([Dies(1.0)]))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert [stage.key for stage in runner(tmp_path).missing([Dies(1.0)])] == [Dies(1.0).key]
    said = []
    with exclusive_lock(runner(tmp_path).folder(Dies(1.0)), Listener(said.append)):
        assert said == []


class Listener(Silent):
    def __init__(self, say):
        self.say = say


def test_a_second_process_waits_for_the_lock_and_says_so(tmp_path):
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()

    def hold():
        with exclusive_lock(tmp_path, Silent()):
            held.set()
            release.wait(60)

    process = context.Process(target=hold)
    process.start()
    assert held.wait(60)
    said = []

    def say(message):
        said.append(message)
        release.set()

    with exclusive_lock(tmp_path, Listener(say)):
        assert said == [f"waiting for another process that is working in {tmp_path.name}"]
    process.join(60)
    assert process.exitcode == 0


def test_two_processes_do_a_stage_once(tmp_path):
    context = multiprocessing.get_context("fork")
    stages = [Number(float(i)) for i in range(12)]
    workers = [
        context.Process(target=lambda: runner(tmp_path).run([Sum(tuple(stages))])) for _ in range(3)
    ]
    for each in workers:
        each.start()
    for each in workers:
        each.join(60)
    assert [each.exitcode for each in workers] == [0, 0, 0]
    assert [runs(tmp_path, stage) for stage in stages] == [1] * 12


@pytest.mark.parametrize("text", ["{", "[]", '{"stage": 1}'])
def test_a_damaged_record_says_what_to_remove(tmp_path, text):
    runner(tmp_path).run([Number(1.0)])
    path = runner(tmp_path).folder(Number(1.0)) / RECORD
    path.write_text(text)
    with pytest.raises(ValueError, match=r"remove the\s+folder|remove the folder"):
        runner(tmp_path).done(Number(1.0))


def test_the_record_says_what_made_it(tmp_path):
    runner(tmp_path).run([Sum((Number(1.0),))])
    record = json.loads((runner(tmp_path).folder(Sum((Number(1.0),))) / RECORD).read_text())
    assert record["stage"]["inputs"] == {"parts[0]": Number(1.0).key}
    assert {"commit", "machine", "versions", "seconds"} <= set(record)


def test_seconds_count_shared_stages_once(tmp_path):
    work = runner(tmp_path)
    shared = Number(1.0)
    work.run([Sum((shared,)), Sum((shared,), 2.0)])
    parts = [shared, Sum((shared,)), Sum((shared,), 2.0)]
    expected = sum(work.outcome(stage).seconds for stage in parts)
    assert total_seconds(work, [Sum((shared,)), Sum((shared,), 2.0)]) == pytest.approx(expected)


def test_how_stages_were_made_comes_from_their_records(tmp_path):
    parts = (Number(1.0), Number(2.0))
    whole = Sum(parts)
    work = runner(tmp_path)
    work.run([whole])
    for part, commit, threads in ((parts[0], "aaa", 1), (parts[1], "bbb", 4), (whole, "aaa", 1)):
        path = work.folder(part) / RECORD
        record = json.loads(path.read_text())
        record |= {"commit": commit, "machine": {"threads": threads, "device": "cpu"}}
        path.write_text(json.dumps(record))
    found = how_made(runner(tmp_path), [whole])
    assert found == {"commit": "aaa, bbb", "device": "cpu", "threads": "1, 4"}
    for part in (whole, *parts):
        path = work.folder(part) / RECORD
        record = json.loads(path.read_text()) | {"commit": "", "machine": None}
        path.write_text(json.dumps(record))
    assert how_made(runner(tmp_path), [whole]) == {}
