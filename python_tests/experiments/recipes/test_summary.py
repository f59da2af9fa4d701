"""Settings and findings, as sentences about numbers made up here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from sign_ext.experiments.recipes.summary import findings, settings_used
from sign_ext.experiments.scale import SignSettings
from sign_ext.experiments.stages.networks import Calibrate, Network, Train, Transform
from sign_ext.experiments.stages.sources import Source
from sign_ext.experiments.stages.stage import Outcome
from sign_ext.report.schema import Cell, Column, Row, Table
from sign_ext.report.verdict import compare_rows
from sign_ext.training import TrainSettings


def sign_settings(transforms, step_sizes):
    """The settings reported for the outcomes of these transforms."""
    numbers = {
        stage.key: {
            "step_size": step_size,
            "change": {str(k): {"rms": 0.1 * k * step_size} for k in stage.snapshots},
        }
        for stage, step_size in zip(transforms, step_sizes, strict=True)
    }
    planner = SimpleNamespace(
        scale=SimpleNamespace(sign=SignSettings(snapshots=(50, 100))),
        numbers=lambda stage: numbers[stage.key],
    )
    outcomes = [Outcome(stage, Path(), numbers[stage.key], 0.0) for stage in transforms]
    return settings_used(planner, [], {"transforms": outcomes})


def transform(seed, factor, snapshots, part="train"):
    phi = Train(Source("digits"), 40, Network("basic_cnn"), TrainSettings(seed=seed))
    return Transform(phi, Calibrate(phi, 8, 0.02, 100), factor, snapshots, part)


def test_settings_have_the_k_that_were_used_and_not_those_of_the_scale():
    steps = (100, 7, 30)
    transforms = [transform(seed, factor, steps) for seed in (0, 1) for factor in (0.3, 1.0)]
    used = sign_settings(transforms, (1.5, 5.0, 1.8, 6.0))
    assert used["K"] == "7, 30 and 100"
    assert used["step size with Φ = basic_cnn, 0.3 × calibrated"] == {"0": 1.5, "1": 1.8}
    changes = used["rms change with Φ = basic_cnn, grey levels"]
    assert changes == pytest.approx({"0": 50.0, "1": 60.0})


def test_settings_skip_transforms_of_other_parts():
    transforms = [transform(0, 1.0, (7,)), transform(0, 1.0, (7, 30), "test")]
    assert sign_settings(transforms, (1.0, 1.0))["K"] == "7"
    assert sign_settings(transforms[1:], (1.0,)) == {}


def table(sign, classical, papers=(None, None)):
    rows = [
        Row("SIGN", "Net, equal epochs", {"mean": Cell(sign, papers[0])}),
        Row("Classical", "Net, equal epochs", {"mean": Cell(classical, papers[1])}),
    ]
    comparison = compare_rows("mean", rows[0], rows[1], images=2000, kind="share")
    return Table("T", "", (Column("mean", "Mean"),), tuple(rows), (comparison,))


def test_findings_say_what_is_decided():
    (said,) = findings(table((0.80, 0.82, 0.81), (0.60, 0.61, 0.63)))
    assert said == "Net, equal epochs: SIGN against Classical: Mean +19.7 points, better."


def test_findings_have_the_papers_difference():
    (said,) = findings(table((0.50, 0.54, 0.52), (0.51, 0.52, 0.53), (0.8637, 0.8550)))
    assert "undecided (the paper +0.9)" in said


def test_findings_print_a_minus_sign():
    (said,) = findings(table((0.40, 0.42, 0.41), (0.60, 0.61, 0.63), (0.80, 0.85)))
    assert "Mean −20.3 points" in said
    assert "(the paper −5.0)" in said
    assert "-" not in said


def test_findings_count_the_undecided():
    (said,) = findings(table((0.50, 0.54, 0.52), (0.51, 0.52, 0.53)))
    assert said == "1 comparison is undecided with these seeds and images."
