"""Stages are known by what decides them, and a lab does each once, whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from sign_ext.experiments.stages.runner import RECORD, StageRunner, total_seconds
from sign_ext.experiments.stages.stage import Stage, in_order

pytestmark = pytest.mark.xdist_group("processes")


@dataclass(frozen=True, eq=False)
class Number(Stage):
    kind: ClassVar[str] = "number"
    version: ClassVar[int] = 1

    value: float
    table: dict[str, Any] = dataclasses.field(default_factory=dict)

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


def test_the_key_changes_with_configuration_inputs_and_version_and_nothing_else(monkeypatch):
    one = Sum((Number(1.0), Number(2.0)), 3.0)
    assert one.key == Sum((Number(1.0), Number(2.0)), 3.0).key
    others = [
        Sum((Number(2.0), Number(1.0)), 3.0),
        Sum((Number(1.0), Number(2.5)), 3.0),
        Sum((Number(1.0),), 3.0),
        Sum((Number(1.0), Number(2.0)), 3.5),
        Sum((Number(1.0, {"a": (1, 2)}), Number(2.0)), 3.0),
    ]
    assert len({each.key for each in others} | {one.key}) == 6
    monkeypatch.setattr(Number, "version", 2)
    assert Sum((Number(1.0), Number(2.0)), 3.0).key != one.key


def test_a_tuple_and_a_list_mean_the_same():
    assert Number(1.0, {"k": [1, 2]}).key == Number(1.0, {"k": (1, 2)}).key


def test_inputs_come_first_and_shared_ones_once():
    shared = Number(1.0)
    first, second = Sum((shared, Number(2.0))), Sum((Number(1.0), Number(3.0)))
    ordered = in_order([first, second])
    keys = [stage.key for stage in ordered]
    assert len(keys) == len(set(keys)) == 5
    for stage in ordered:
        assert all(keys.index(i.key) < keys.index(stage.key) for i in stage.inputs().values())


def test_each_stage_runs_once_also_for_the_next_lab(tmp_path):
    a, b = Number(1.5), Number(2.5)
    (outcome,) = runner(tmp_path).do([Sum((a, b), 2.0)])
    assert outcome.numbers == {"value": 8.0, "nothing": None}
    again = runner(tmp_path)
    assert again.missing([Sum((a, b), 2.0)]) == []
    assert again.do([Sum((a, b), 2.0), Sum((a,))])[1].numbers["value"] == 1.5
    assert runs(tmp_path, a) == runs(tmp_path, b) == 1


def test_inputs_of_a_finished_stage_are_not_needed_again(tmp_path):
    stage = Sum((Number(1.0),))
    runner(tmp_path).do([stage])
    (runner(tmp_path).folder(Number(1.0)) / RECORD).unlink()
    assert runner(tmp_path).missing([stage]) == []


def test_a_stage_that_fails_is_not_done(tmp_path):
    work = runner(tmp_path)
    with pytest.raises(RuntimeError, match="on purpose"):
        work.do([Fails(1.0)])
    assert not runner(tmp_path).done(Fails(1.0))
    assert (work.folder(Fails(1.0)) / "half").exists()


def test_a_killed_process_lets_go_and_leaves_nothing_done(tmp_path):
    context = multiprocessing.get_context("fork")
    process = context.Process(target=lambda: runner(tmp_path).do([Dies(1.0)]))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert [stage.key for stage in runner(tmp_path).missing([Dies(1.0)])] == [Dies(1.0).key]


def test_two_processes_do_a_stage_once(tmp_path):
    context = multiprocessing.get_context("fork")
    stages = [Number(float(i)) for i in range(12)]
    workers = [
        context.Process(target=lambda: runner(tmp_path).do([Sum(tuple(stages))])) for _ in range(3)
    ]
    for each in workers:
        each.start()
    for each in workers:
        each.join(60)
    assert [each.exitcode for each in workers] == [0, 0, 0]
    assert [runs(tmp_path, stage) for stage in stages] == [1] * 12


@pytest.mark.parametrize("text", ["{", "[]", '{"stage": 1}'])
def test_a_damaged_record_says_what_to_remove(tmp_path, text):
    runner(tmp_path).do([Number(1.0)])
    path = runner(tmp_path).folder(Number(1.0)) / RECORD
    path.write_text(text)
    with pytest.raises(ValueError, match=r"remove the\s+folder|remove the folder"):
        runner(tmp_path).done(Number(1.0))


def test_the_record_says_what_made_it(tmp_path):
    runner(tmp_path).do([Sum((Number(1.0),))])
    record = json.loads((runner(tmp_path).folder(Sum((Number(1.0),))) / RECORD).read_text())
    assert record["stage"]["inputs"] == {"parts[0]": Number(1.0).key}
    assert {"commit", "machine", "versions", "seconds"} <= set(record)


def test_seconds_count_shared_stages_once(tmp_path):
    work = runner(tmp_path)
    shared = Number(1.0)
    work.do([Sum((shared,)), Sum((shared,), 2.0)])
    parts = [shared, Sum((shared,)), Sum((shared,), 2.0)]
    expected = sum(work.outcome(stage).seconds for stage in parts)
    assert total_seconds(work, [Sum((shared,)), Sum((shared,), 2.0)]) == pytest.approx(expected)
