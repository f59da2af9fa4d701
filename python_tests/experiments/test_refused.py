"""A Φ that has not learnt ends nothing: its rows are left out, and the report says why."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from sign_ext.experiments.reproduce import Reproduction
from sign_ext.experiments.scale import load_scale
from sign_ext.experiments.stages.stage import StageRefusedError
from sign_ext.progress import Silent


def unlearnt(path: Path) -> Path:
    """A scale whose Φ has had no time to learn, and may not be used."""
    record = yaml.safe_load((files("sign_ext") / "configs" / "smoke.yaml").read_text("utf-8"))
    record["tasks"]["cifar10"] |= {"train_size": 60, "validation_size": 50, "test_size": 40}
    record["networks"]["basic_cnn"] |= {
        "epochs": 1,
        "learning_rates": [],
        "learning_rate": 1e-7,
    }
    record["sign"] |= {"target_shares": [], "require_learnt": True}
    record["experiments"] = {"delta_only": {"networks": ["basic_cnn"]}}
    path.write_text(yaml.safe_dump(record))
    return path


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("refused")
    scale = load_scale(str(unlearnt(out / "unlearnt.yaml")))
    work = Reproduction(["delta_only", "slice_a"], scale, (0,), out, reporter=Heard())
    return work, work.run(command_of=lambda name: f"sign-ext reproduce {name} --data-root D")


def test_rows_that_need_no_phi_are_there_and_the_others_are_named(run):
    _, results = run
    delta, slice_a = results.experiments
    (table,) = slice_a.tables
    assert [row.label for row in table.rows] == ["Classical", "mixup"]
    assert "Left out: basic_cnn/noise/steps, basic_cnn/sign/steps." in slice_a.findings[0]
    assert "Φ has not learnt" in slice_a.findings[0]
    assert not delta.tables
    assert "Φ has not learnt" in delta.findings[0]
    assert slice_a.command == "sign-ext reproduce slice_a --data-root D"


def test_the_report_says_so(run):
    work, _ = run
    for name in ("index.html", "results.md"):
        assert "has not learnt" in (work.runner.out / name).read_text()


def test_networks_that_did_not_learn_are_named_and_stay(run):
    work, results = run
    (table,) = results.experiments[1].tables
    for row, method in zip(table.rows, ("classical", "mixup"), strict=True):
        (doubt,) = row.doubts
        assert doubt.startswith("its best validation accuracy, ")
        stage = work.planner.train("basic_cnn", method, 0, protocol="steps")
        record = json.loads((work.runner.folder(stage) / "stage.json").read_text())
        assert record["numbers"]["doubt_of_learning"] == doubt
        assert f"{stage.title()}: not shown to have learnt: {doubt}" in work.reporter.said
        assert row.cells["normal"].values[0] is not None
    for name in ("index.html", "results.md"):
        assert "Seed 0 is not shown to have learnt: " in (work.runner.out / name).read_text()


def test_a_record_of_an_earlier_version_is_doubted_by_its_history(run):
    work, _ = run
    stage = work.planner.train("basic_cnn", "classical", 0, protocol="steps")
    outcome = work.runner.outcome(stage)
    doubt = work.planner.doubt_of_learning(stage)
    old = {k: v for k, v in outcome.numbers.items() if k != "doubt_of_learning"}
    again = Reproduction(["slice_a"], work.scale, (0,), work.runner.out)
    again.runner._outcomes[stage.key] = replace(outcome, numbers=old)
    assert again.planner.doubt_of_learning(stage) == doubt != ""


def test_asking_for_a_refused_stage_is_an_error(run):
    work, _ = run
    sign = work.planner.train("basic_cnn", "sign", 0)
    with pytest.raises(StageRefusedError, match="has not learnt"):
        work.runner.run([sign])


def test_a_scale_made_for_slices_refuses_other_experiments(tmp_path):
    with pytest.raises(ValueError, match=r"'medium' is not made for 'table1'; accepted: slice_a"):
        Reproduction(["table1"], load_scale("medium"), (0,), tmp_path)
