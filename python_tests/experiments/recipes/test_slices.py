"""Slices from their plan to what is kept of them, on a few digits."""

from __future__ import annotations

import importlib.util
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import yaml

from sign_ext.commands import reproduce
from sign_ext.experiments.recipes.recipe import RowSpec, compare_pairs
from sign_ext.experiments.recipes.slices import DEFAULTS
from sign_ext.experiments.reproduce import Reproduction
from sign_ext.experiments.scale import load_scale
from sign_ext.report.merge import merge
from sign_ext.report.schema import Cell, Column, Results, Row

ROOT = Path(__file__).parents[3]
IMAGES = 30


@pytest.fixture(scope="module")
def scale(tmp_path_factory):
    record = yaml.safe_load((files("sign_ext") / "configs" / "medium.yaml").read_text("utf-8"))
    record["tasks"]["cifar10"] |= {
        "data": "digits",
        "flips": False,
        "train_size": 40,
        "validation_size": 40,
        "test_size": IMAGES,
        "image_size": 16,
        "batch_size": 16,
    }
    for network in record["networks"].values():
        network |= {"epochs": 1, "phi_epochs": 2, "precision": "float32"}
    record["sign"] |= {"snapshots": [1, 2], "calibration_images": 8, "require_learnt": False}
    record["samples"] = 2
    record["ood"] = {"name": "digits_shifted", "image_size": 16}
    path = tmp_path_factory.mktemp("scale") / "tiny_medium.yaml"
    path.write_text(yaml.safe_dump(record))
    return load_scale(str(path))


@pytest.mark.slow
def test_a_slice_has_all_measures_of_its_networks_and_one_family_each(scale, tmp_path):
    work = Reproduction(["slice_c"], scale, (2,), tmp_path)
    (experiment,) = work.run().experiments
    titles = [table.title for table in experiment.tables]
    assert titles[0] == "Slice C"
    assert sum("test images" in each for each in titles) == 4
    assert sum("out of distribution" in each for each in titles) == 4
    told = [c for table in experiment.tables for c in table.comparisons]
    assert {(c.method, c.baseline) for c in told} == {("SIGN", "Classical"), ("SIGN", "mixup")}
    assert all((c.family == "secondary") == (c.baseline == "Classical") for c in told)


def test_what_no_seed_has_is_not_compared():
    column = Column("x", "x", "number", higher_is_better=False)
    rows = {
        RowSpec("n", method, "steps"): Row(method, "g", {"x": Cell(values)})
        for method, values in (("sign", (None, 1.0)), ("classical", (2.0, None)))
    }
    assert compare_pairs(rows, [column], None) == ()
    rows[RowSpec("n", "classical", "steps")] = Row("classical", "g", {"x": Cell((2.0, 3.0))})
    (compared,) = compare_pairs(rows, [column], None)
    assert (compared.seeds, compared.difference) == (1, -2.0)


def collecting():
    """tools/collect_slice.py."""
    spec = importlib.util.spec_from_file_location("collect", ROOT / "tools" / "collect_slice.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def test_seeds_are_collected_and_joined(scale, tmp_path):
    tool = collecting()
    kept = tmp_path / "kept"
    for seed in (1, 2):
        out = tmp_path / f"seed{seed}"
        Reproduction(["slice_a"], scale, (seed,), out).run()
        paths = tool.collect(out, kept)
        assert [path.name for path in paths] == [
            f"slice_A_seed{seed}.json",
            f"slice_A_seed{seed}.answers.npz",
        ]
    joined = merge([Results.read(kept / f"slice_A_seed{seed}.json") for seed in (2, 1)])
    assert joined.seeds == (1, 2)
    (table,) = joined.experiments[0].tables
    (primary,) = [each for each in table.comparisons if each.family == "primary"]
    assert (primary.method, primary.baseline, primary.seeds) == ("SIGN", "Noise", 2)
    assert primary.paired_by == "images"
    with np.load(kept / "slice_A_seed1.answers.npz") as arrays:
        rows = {row.label: row.cells["normal"].values[0] for row in table.rows}
        for label, accuracy in rows.items():
            name = f"BasicCNN, equal gradient steps/{label}/classify/test"
            bits = np.unpackbits(arrays[f"{name}/correct"], count=int(arrays[f"{name}/images"]))
            assert bits.mean() == pytest.approx(accuracy)
            assert arrays[f"{name}/probability"].dtype == np.float16
            assert arrays[f"{name}/probability"].shape == (IMAGES,)
    both = tmp_path / "both"
    both.mkdir()
    joined.write(both / "results.json")
    with pytest.raises(ValueError, match="one slice, one seed"):
        tool.collect(both, kept)


def test_slice_d_asks_what_slice_a_has_made_and_decides_nothing(scale, tmp_path):
    Reproduction(["slice_a"], scale, (1,), tmp_path).run()
    assert "slice_d" not in scale.only, "earlier results have the scale's settings without it"
    assert scale.accepted == ("slice_a", "slice_b", "slice_c", "slice_d")
    assert reproduce._names(("all",), scale) == list(scale.accepted)
    work = Reproduction(["slice_d"], scale, (1,), tmp_path)
    trained = {stage.kind for stage in work.runner.missing(work.stages())}
    assert trained == {"transform", "follow-path", "inputs-used", "classify-versions"} | {
        "cancel-attack"
    }, "nothing is trained or calibrated again"
    (experiment,) = work.run().experiments
    tables = {table.title: table for table in experiment.tables}
    assert {table.images for table in tables.values()} == {IMAGES}
    labels = {title: [row.label for row in table.rows] for title, table in tables.items()}
    assert labels["Φ’s answers to p*"] == ["p", "p*, K = 1", "p*, K = 2", "p + noise as large"]
    assert {label.partition(":")[0] for label in labels["Inputs used"]} == {
        "Classical",
        "Noise",
        "mixup",
        "SIGN",
    }
    assert len(labels["SIGN at inference"]) == 2 * 4
    assert {row.group for row in tables["Attack, then SIGN"].rows} == {
        f"Φ = BasicCNN, ε = {epsilon}" for epsilon in (1, 2, 8)
    }
    assert not any(c.family for table in tables.values() for c in table.comparisons)
    kept = tmp_path / "kept"
    collecting().collect(tmp_path, kept)
    with np.load(kept / "slice_D_seed1.answers.npz") as arrays:
        bits = np.unpackbits(
            arrays["Φ = BasicCNN/p/follow/test/accuracy_2"],
            count=int(arrays["Φ = BasicCNN/p/follow/test/images"]),
        )
        inputs = arrays["BasicCNN, equal gradient steps/SIGN: p/inputs/test/effective_0"]
    row = tables["Φ’s answers to p*"].rows[2]
    assert bits.mean() == pytest.approx(row.cells["accuracy"].values[0])
    (row,) = [row for row in tables["Inputs used"].rows if row.label == "SIGN: p"]
    assert inputs.shape == (IMAGES,)
    assert inputs.mean(dtype=np.float64) == pytest.approx(
        row.cells["effective"].values[0], rel=1e-3
    )


def test_no_pair_crosses_slices_and_steps_are_equal(scale, tmp_path):
    work = Reproduction(list(DEFAULTS), scale, (1,), tmp_path)
    for name in DEFAULTS:
        trained = [
            next(s for s in stages[0].inputs().values() if hasattr(s, "settings"))
            for stages in work.plan(name).values()
        ]
        steps = {each.settings.total_steps(each.train_images) for each in trained}
        assert len(steps) == 1, name
        assert {each.settings.seed for each in trained} == {1}
