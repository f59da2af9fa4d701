"""Parts of recipes against independent definitions: arithmetic, sources, δ sets, sentences."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sign_ext.data import ImageSet
from sign_ext.experiments.recipes.summary import findings, settings
from sign_ext.experiments.scale import SignSettings
from sign_ext.experiments.stages.cost import flops_per_image
from sign_ext.experiments.stages.measure import sight, spread
from sign_ext.experiments.stages.networks import (
    Calibrate,
    Network,
    Train,
    Transform,
    change,
    delta_set,
)
from sign_ext.experiments.stages.runner import Outcome
from sign_ext.experiments.stages.sources import Source, Sources
from sign_ext.report.schema import Cell, Column, Row, Table
from sign_ext.report.verdict import compare_rows
from sign_ext.store import save_transformed
from sign_ext.training import TrainSettings


@pytest.mark.parametrize("side", [8, 20, 33])
def test_flops_of_basic_cnn_are_those_of_its_layers(side):
    half, quarter = side // 2, side // 4
    products = side**2 * 9 * (3 * 32 + 32 * 32) + half**2 * 9 * (32 * 64 + 64 * 64)
    products += quarter**2 * 64 * 512 + 512 * 10
    assert flops_per_image("basic_cnn", {}, (3, side, side)) == 2 * products


def test_flops_leave_the_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    flops_per_image("basic_cnn", {"dropout": 0.125}, (3, 12, 12))
    assert torch.equal(torch.rand(1), expected)


def test_a_source_knows_its_pixels():
    sources = Sources()
    small = sources.resolved(Source("digits", 50, 30, 20, 12))
    splits = sources.read(small)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (50, 30, 20)
    assert splits is sources.read(Source("digits", 50, 30, 20, 12))
    assert len(set(small.fingerprint.split("-"))) == 3
    other = sources.resolved(Source("digits", 50, 30, 20, 13))
    assert other.fingerprint != small.fingerprint
    assert sources.resolved(small) == small
    with pytest.raises(ValueError, match="validation_size=5000"):
        sources.read(Source("digits", validation_size=5000))


def test_change_is_that_of_numpy(torch_rng):
    pixels = torch.randint(0, 256, (5, 3, 7, 9), generator=torch_rng, dtype=torch.uint8)
    moved = pixels + 9 * torch.randn(5, 3, 7, 9, generator=torch_rng) - 40
    images = ImageSet(pixels, torch.zeros(5, dtype=torch.int64), ("a",), "x")
    found = change(images, moved)
    delta = moved.numpy().astype(np.float64) - pixels.numpy()
    assert found["rms"] == pytest.approx(np.sqrt((delta**2).mean()))
    assert found["largest"] == pytest.approx(np.abs(delta).max())
    assert found["share_negative"] == pytest.approx((moved.numpy() < 0).mean())


def test_delta_sets_share_one_factor_of_the_largest_k(tmp_path, torch_rng):
    train = ImageSet(
        torch.randint(0, 256, (6, 3, 5, 4), generator=torch_rng, dtype=torch.uint8),
        torch.arange(6) % 2,
        ("a", "b"),
        "train",
    )
    test = train.subset([0, 3])
    late = {
        s.name: s.float() + 3 * torch.randn(s.images.shape, generator=torch_rng) for s in (train,)
    }
    outcomes = []
    for name, part, moved in (
        ("train", train, late["train"]),
        ("test", test, late["train"][[0, 3]] * 1.5),
    ):
        folder = tmp_path / name
        steps = {2: part.float() + 77.0, 10: moved}
        save_transformed(folder, steps, part.labels, recipe={})
        numbers = {"change": {"10": change(part, moved)}}
        outcomes.append(Outcome(None, folder, numbers, 0.0))
    whole = delta_set(outcomes[0], train, outcomes[0])
    assert float(whole.images.double().square().mean().sqrt()) == pytest.approx(64.0, rel=1e-5)
    factor = 64.0 / outcomes[0].numbers["change"]["10"]["rms"]
    some = delta_set(outcomes[1], test, outcomes[0])
    expected = (late["train"][[0, 3]] * 1.5 - test.float()) * factor
    torch.testing.assert_close(some.images, expected)


def test_contrast_and_edges_of_a_ramp():
    # Grey rises by 2 a column and 0 a row: gradient 2 everywhere, deviation that of the columns.
    ramp = (2.0 * torch.arange(9)).expand(1, 3, 6, 9).contiguous()
    found = sight(ramp)
    columns = np.repeat(2.0 * np.arange(9), 6)
    assert found["edges"] == pytest.approx(2.0)
    assert found["contrast"] == pytest.approx(columns.std(ddof=1), rel=1e-6)


def test_spread_positions_are_even_and_distinct():
    places = spread(103, 10)
    assert places[0] == 0
    assert {b - a for a, b in itertools.pairwise(places)} <= {10, 11}
    assert max(places) < 103


def told_of(transforms, step_sizes):
    """What is told of outcomes that are these transforms themselves."""
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
    return settings(planner, [], {"made": outcomes})


def transform(seed, factor, snapshots, part="train"):
    phi = Train(Source("digits"), 40, Network("basic_cnn"), TrainSettings(seed=seed))
    return Transform(phi, Calibrate(phi, 8, 0.02, 100), factor, snapshots, part)


def test_settings_tell_the_k_that_were_made_and_not_those_of_the_scale():
    steps = (100, 7, 30)
    made = [transform(seed, factor, steps) for seed in (0, 1) for factor in (0.3, 1.0)]
    told = told_of(made, (1.5, 5.0, 1.8, 6.0))
    assert told["K"] == "7, 30 and 100"
    assert told["step size with Φ = basic_cnn, 0.3 × calibrated"] == {"0": 1.5, "1": 1.8}
    changes = told["rms change with Φ = basic_cnn, grey levels"]
    assert changes == pytest.approx({"0": 50.0, "1": 60.0})


def test_settings_leave_out_what_no_training_image_went_through():
    made = [transform(0, 1.0, (7,)), transform(0, 1.0, (7, 30), "test")]
    assert told_of(made, (1.0, 1.0))["K"] == "7"
    assert told_of(made[1:], (1.0,)) == {}


def table(sign, classical, papers=(None, None)):
    rows = [
        Row("SIGN", "Net, equal epochs", {"mean": Cell(sign, papers[0])}),
        Row("Classical", "Net, equal epochs", {"mean": Cell(classical, papers[1])}),
    ]
    told = compare_rows("mean", rows[0], rows[1], images=2000, kind="share")
    return Table("T", "", (Column("mean", "Mean"),), tuple(rows), (told,))


def test_findings_say_what_is_decided():
    (said,) = findings(table((0.80, 0.82, 0.81), (0.60, 0.61, 0.63)))
    assert said == "Net, equal epochs: SIGN against Classical: Mean +19.7 points, better."


def test_findings_say_undecided_with_the_paper_beside_it():
    (said,) = findings(table((0.50, 0.54, 0.52), (0.51, 0.52, 0.53), (0.8637, 0.8550)))
    assert "undecided (the paper +0.9)" in said


def test_findings_print_a_minus_as_one():
    (said,) = findings(table((0.40, 0.42, 0.41), (0.60, 0.61, 0.63), (0.80, 0.85)))
    assert "Mean −20.3 points" in said
    assert "(the paper −5.0)" in said
    assert "-" not in said


def test_findings_count_what_is_not_told():
    (said,) = findings(table((0.50, 0.54, 0.52), (0.51, 0.52, 0.53)))
    assert said == "1 comparison shows no difference that these seeds and images can resolve."
