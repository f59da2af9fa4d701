"""`sign-ext reproduce`: all of it on digits, nothing done twice, and killed runs continue."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import yaml

from sign_ext.experiments.names import EXPERIMENTS
from sign_ext.experiments.recipes import published
from sign_ext.experiments.reproduce import Reproduction
from sign_ext.experiments.scale import load_scale
from sign_ext.experiments.stages.networks import PHI_SEEDS, TUNING_SEED, Train
from sign_ext.report.schema import Results

TITLES = {
    "figure1": "Figure 1",
    "figure2": "Figure 2",
    "phi_answers": "Does Φ predict p* better?",
    "table1": "Table 1",
    "figure3": "Figure 3",
    "isic": "ISIC-2017",
    "figure4": "Figure 4",
    "figure5": "Figure 5",
    "delta_only": "δ alone",
    "table2": "Table 2",
    "table3": "Table 3",
    "table5": "Table 5",
    "figure6": "Figure 6",
    "table4": "Table 4",
    "inputs_used": "Are fewer inputs used?",
    "cancel_attack": "Does SIGN cancel an attack?",
    "sign_at_inference": "SIGN at inference",
    "step_size": "Step size",
    "controls": "Controls",
    "field": "in use today",
    "slice_a": "Slice A",
    "slice_b": "Slice B",
    "slice_c": "Slice C",
    "slice_d": "Slice D",
}


SEEDS = (0, 1)
TRAIN_SIZE = 50


def smaller(path: Path) -> Path:
    """The scale `smoke`, every experiment and method, on a few images for half the epochs."""
    record = yaml.safe_load((files("sign_ext") / "configs" / "smoke.yaml").read_text("utf-8"))
    for task in record["tasks"].values():
        task |= {"train_size": TRAIN_SIZE, "validation_size": 40, "image_size": 12}
    record["tasks"]["cifar10"]["test_size"] = 60
    record["ood"]["image_size"] = 12
    for network in record["networks"].values():
        network["epochs"] = 2
    record["sign"] |= {"snapshots": [2, 4], "calibration_images": 8}
    record |= {"samples": 4, "pixels": 7}
    record["search"] |= {"trials": 2, "child_images": 40}
    options = record["experiments"]
    # The methods of the other network have no code of their own here.
    options["table1"]["networks"]["mobilenet_v2"] = ["classical", "noise", "sign"]
    options["figure5"]["images"] = TRAIN_SIZE
    options["step_size"]["steps"] = [2, 4]
    options["inputs_used"]["images"] = 20
    options["cancel_attack"] = {"epsilons": [8], "steps": 2, "images": 20}
    options["field"]["networks"]["basic_cnn"].append("adversarial")
    options["slice_d"] = {"images": 20, "attacked": 20}
    path.write_text(yaml.safe_dump(record))
    return path


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Everything, once: its folder, its scale and its results."""
    out = tmp_path_factory.mktemp("smoke")
    scale = load_scale(str(smaller(out / "smaller.yaml")))
    work = Reproduction(list(EXPERIMENTS), scale, SEEDS, out)
    return out, scale, work.run("sign-ext reproduce all --scale smaller.yaml")


@pytest.mark.slow
def test_every_table_and_figure_is_in_the_report(smoke):
    out, _, results = smoke
    assert [each.name for each in results.experiments] == list(EXPERIMENTS) == list(TITLES)
    page = (out / "index.html").read_text()
    text = (out / "results.md").read_text().replace(r"\*", "*")  # as Markdown writes "p*"
    for experiment in results.experiments:
        assert TITLES[experiment.name] in experiment.title
        assert experiment.title in text
        assert TITLES[experiment.name] in page
        assert experiment.tables or experiment.figures
        assert experiment.stand_ins, "digits are not the paper's data, and the report says so"
    assert Results.read(out / "results.json").experiments == results.experiments


@pytest.mark.slow
def test_the_papers_numbers_stand_beside_ours(smoke):
    _, _, results = smoke
    tables = {table.title: table for e in results.experiments for table in e.tables}
    found = {
        (row.group, row.label): row.cells["mean"].paper
        for row in tables["Table 1"].rows
        if "epochs" in row.group
    }
    assert found["MobileNetV2, equal epochs", "SIGN"] == 0.8637
    assert found["BasicCNN, equal epochs", "DeepAugment + SIGN"] == 0.8691
    (theirs,) = published.DELTA_ONLY.values()
    assert tables["δ alone (Section 3.1)"].rows[0].cells["accuracy"].paper == theirs
    for title in ("Table 1", "Table 4", "Table 5"):
        groups = {row.group for row in tables[title].rows}
        assert any("equal epochs" in each for each in groups)
        assert any("equal gradient steps" in each for each in groups)


@pytest.mark.slow
def test_every_cell_has_a_value_a_seed(smoke):
    _, _, results = smoke
    for experiment in results.experiments:
        for table in experiment.tables:
            keys = {column.key for column in table.columns}
            for row in table.rows:
                assert set(row.cells) <= keys
                assert all(len(cell.values) == len(results.seeds) for cell in row.cells.values())
            shares = [c.key for c in table.columns if c.kind == "share"]
            values = [
                v for r in table.rows for k in shares if k in r.cells for v in r.cells[k].values
            ]
            assert all(v is None or 0 <= v <= 1 for v in values)


@pytest.mark.slow
def test_a_second_run_costs_nothing(smoke):
    out, scale, results = smoke
    work = Reproduction(list(EXPERIMENTS), scale, SEEDS, out)
    assert work.runner.missing(work.stages()) == []
    assert work.run().experiments == results.experiments


@pytest.mark.slow
def test_equal_gradient_steps_are_equal(smoke):
    out, scale, _ = smoke
    work = Reproduction(["table1"], scale, (0,), out)
    plan = work.plan("table1")
    numbers = {
        key: work.runner.outcome(stages[0].inputs()["network"]).numbers
        for key, stages in plan.items()
    }
    for network in ("mobilenet_v2", "basic_cnn"):
        of_network = [
            n for key, n in numbers.items() if key.startswith(network) and "compute" not in key
        ]
        assert len({len(n["history"]) for k, n in numbers.items() if k.startswith(network)}) == 1
        by_steps = [
            n for key, n in numbers.items() if key == f"{network}/{key.split('/')[1]}/steps"
        ]
        assert len({n["steps"] for n in by_steps}) == 1
        classical = numbers[f"{network}/classical/epochs"]
        sign = numbers[f"{network}/sign/epochs"]
        assert sign["train_images"] == 3 * classical["train_images"] == 3 * TRAIN_SIZE
        assert len(classical["history"]) == len(sign["history"])
        assert max(n["steps"] for n in of_network) == sign["steps"]


def test_tables_share_phi_and_transformed_images(tmp_path):
    work = Reproduction(list(EXPERIMENTS), load_scale("smoke"), (0,), tmp_path)
    stages = [stage for stage in work.stages() if getattr(stage, "seed", None) != TUNING_SEED]
    transforms = [s for s in stages if s.kind == "transform" and s.phi.seed != TUNING_SEED]
    transforms = [s for s in transforms if s.phi.network.model == "mobilenet_v2"]
    phis = {s.phi.key for s in transforms}
    assert len(phis) == 1, "all of MobileNetV2's transforms start from one Φ"
    (phi,) = {s.phi.settings.seed for s in transforms}
    assert phi % PHI_SEEDS == 0 != phi  # of the same seed, from other initial weights
    classical = [
        s
        for s in stages
        if isinstance(s, Train) and s.kind == "train" and s.network.model == "mobilenet_v2"
        if s.augment == ("classical",) and not s.sign and not s.network.aleatoric
        if not s.attack_steps
    ]
    assert len(classical) == 4  # Φ, and one a protocol


@pytest.mark.slow
def test_the_page_leads_with_the_primary_comparison(smoke):
    out, _, results = smoke
    told = [c for e in results.experiments for t in e.tables for c in t.comparisons]
    assert {c.paired_by for c in told} == {"images"}
    (primary,) = [c for c in told if c.family == "primary"]
    assert (primary.method, primary.baseline) == ("SIGN", "Noise")
    assert primary.group == "BasicCNN, equal gradient steps"
    secondary = [c for c in told if c.family == "secondary"]
    assert all("equal gradient steps" in c.group for c in secondary)
    assert len(secondary) >= 10
    page = (out / "index.html").read_text()
    assert page.index("SIGN against Noise") < page.index("What came out")


def test_equal_computation_costs_as_much_and_each_seed_has_its_own_images(tmp_path):
    scale = load_scale("smoke")
    planner = Reproduction(["table1"], scale, (0, 1), tmp_path).planner
    sign = planner.train("basic_cnn", "sign", 1, protocol="compute")
    assert sign.key == planner.train("basic_cnn", "sign", 1).key
    spent = sign.flops() + sign.sign.flops() + sign.sign.phi.flops()
    for method in ("classical", "mixup", "noise"):
        stage = planner.train("basic_cnn", method, 1, protocol="compute")
        a_step = stage.flops() / stage.settings.total_steps(stage.train_images)
        assert spent <= stage.flops() <= spent + a_step * 1.001
        assert stage.settings.checkpoints == sign.settings.checkpoints
    sources = {seed: planner.train("basic_cnn", "classical", seed).source for seed in (0, 1)}
    first, second = (planner.sources.read(source) for source in sources.values())
    assert not torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.test.images, second.test.images)
    assert torch.equal(first.validation.images, second.validation.images)
    assert sign.sign.phi.source == sign.source == sources[1]


def tiny(path: Path) -> Path:
    """A scale that takes seconds, with each kind of stage that tables rest on."""
    record = yaml.safe_load((files("sign_ext") / "configs" / "smoke.yaml").read_text("utf-8"))
    record["seeds"] = 1
    sizes = {"train_size": 50, "validation_size": 40, "test_size": 50, "image_size": 12}
    record["tasks"]["cifar10"] |= {**sizes, "batch_size": 10}  # or nothing is learnt
    record["networks"]["basic_cnn"]["epochs"] = 3
    record["sign"] |= {"snapshots": [2, 4], "calibration_images": 8}
    record["search"] = {"trials": 2, "child_images": 40, "epochs": 1, "top": 1}
    networks = {"basic_cnn": ["classical", "sign", "deepaugment_sign"]}
    record["experiments"] = {
        "table1": {"networks": networks},
        "delta_only": {"networks": ["basic_cnn"]},
    }
    path.write_text(yaml.safe_dump(record))
    return path


def test_one_experiment_from_its_plan_to_its_page(tmp_path):
    scale = load_scale(str(tiny(tmp_path / "tiny.yaml")))
    work = Reproduction(["delta_only"], scale, (0,), tmp_path / "out")
    (experiment,) = work.run("a command").experiments
    rows = [row for table in experiment.tables for row in table.rows]
    accuracies = [value for row in rows for value in row.cells["accuracy"].values]
    assert accuracies
    assert all(0 <= accuracy <= 1 for accuracy in accuracies)
    assert TITLES["delta_only"] in (tmp_path / "out" / "index.html").read_text()
    again = Reproduction(["delta_only"], scale, (0,), tmp_path / "out")
    assert again.runner.missing(again.stages()) == []


def numbers_of(out: Path):
    experiments = json.loads((out / "results.json").read_text())["experiments"]
    return [(e["name"], e["tables"], e["findings"]) for e in experiments]


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_numbers(tmp_path):
    scale, whole, out = tiny(tmp_path / "tiny.yaml"), tmp_path / "whole", tmp_path / "killed"
    script = Path(__file__).with_name("killed_reproduce.py")
    command = [sys.executable, str(script), str(scale), str(whole)]
    quiet = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (
        (tmp_path / "said").open("w") as said,
        subprocess.Popen(command, **quiet, stderr=said, env=environment, text=True) as server,
    ):

        def run(stages: float, seconds: float = 0.0) -> int:
            server.stdin.write(f"{out} {stages:.0f} {seconds}\n")
            server.stdin.flush()
            return int(server.stdout.readline())

        assert server.stdout.readline() == "0\n", (tmp_path / "said").read_text()
        stages = len(list((whole / "artefacts").iterdir()))
        chance = random.Random(20)
        ended = [run(share * stages, chance.uniform(0.0, 0.2)) for share in (0.1, 0.4, 0.7, 0.9)]
        assert set(ended) <= {0, -signal.SIGKILL}
        assert ended.count(-signal.SIGKILL) >= 2
        assert run(stages + 1) == 0, (tmp_path / "said").read_text()
        server.stdin.close()
    assert numbers_of(out) == numbers_of(whole)
