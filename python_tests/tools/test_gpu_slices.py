"""Slices on a GPU, rehearsed on the CPU: the same answers as `sign-ext reproduce` gives."""

from __future__ import annotations

import base64
import importlib.util
import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch
import yaml

from sign_ext.data import load_data
from sign_ext.evaluation import Answers
from sign_ext.experiments.recipes.arms import arms
from sign_ext.experiments.reproduce import Reproduction
from sign_ext.experiments.scale import load_scale
from sign_ext.experiments.stages.measure import ANSWERS
from sign_ext.formatting import plain
from sign_ext.report.schema import Results

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "gpu_slices.py"
SEED = 3


@pytest.fixture(scope="module")
def tool():
    if str(SCRIPT.parent) not in sys.path:
        sys.path.insert(0, str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("gpu_slices", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scale(tmp_path_factory):
    """The scale `gpu` on a few digits: its path."""
    record = yaml.safe_load((files("sign_ext") / "configs" / "gpu.yaml").read_text("utf-8"))
    record["tasks"]["cifar10"] |= {
        "data": "digits",
        "flips": False,
        "train_size": 60,
        "validation_size": 50,
        "test_size": 40,
        "image_size": 16,
        "batch_size": 16,
    }
    record["networks"]["basic_cnn"] |= {"epochs": 3, "phi_epochs": 6, "learning_rate": 0.003}
    record["sign"] |= {"snapshots": [2, 4], "calibration_images": 8, "require_learnt": False}
    path = tmp_path_factory.mktemp("scale") / "tiny_gpu.yaml"
    path.write_text(yaml.safe_dump(record))
    return path


def test_packed_images_are_the_images(tool, tmp_path):
    splits = load_data("digits", train_size=137, test_size=9, image_size=16)  # not in sixty-fours
    path = tmp_path / "packed.safetensors"
    tool.pack(splits, {"seeds": 2}, path)
    again, settings = tool.unpack(path)
    assert settings == {"seeds": 2}
    assert again.class_names == splits.class_names
    for name in ("train", "validation", "test"):
        assert torch.equal(again.part(name).images, splits.part(name).images)
        assert torch.equal(again.part(name).labels, splits.part(name).labels)


def test_a_file_that_would_be_too_large_is_refused(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "LARGEST", 1000)
    splits = load_data("digits", train_size=12, test_size=9, image_size=16)
    with pytest.raises(ValueError, match="MiB; accepted"):
        tool.pack(splits, {}, tmp_path / "packed.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_seed_answers_as_the_stages_do(tool, scale, tmp_path):
    loaded = load_scale(str(scale))
    work = Reproduction(["slice_a"], loaded, (SEED,), tmp_path)
    work.run()
    task = loaded.tasks["cifar10"]
    splits = work.planner.sources.read(work.planner.source(task, SEED))
    line = tool.run_seed(splits, plain(loaded), SEED, torch.device("cpu"))
    plan = work.plan("slice_a")
    for spec in arms("basic_cnn", tool.METHODS):
        (stage,) = plan[spec.name]
        theirs = Answers.read(work.runner.outcome(stage).folder / ANSWERS)
        path = tmp_path / "answers.safetensors"
        path.write_bytes(base64.b64decode(line["arms"][spec.method]["answers"]))
        ours = Answers.read(path)
        for name, values in theirs.values.items():
            assert (ours.values[name] == values).all(), (spec.method, name)
        numbers = line["arms"][spec.method]["numbers"]
        doubt = numbers.pop("doubt_of_learning")
        assert numbers == dict(work.planner.numbers(stage))
        assert doubt == work.planner.doubt_of_learning(stage.network)


@pytest.mark.slow
def test_one_command_runs_seeds_side_by_side_and_they_are_joined(tool, scale, tmp_path):
    packed, out = tmp_path / "packed.safetensors", tmp_path / "out"
    loaded = load_scale(str(scale))
    splits = load_data("digits", train_size=80, test_size=40, image_size=16)
    tool.pack(splits, plain(loaded), packed)
    command = [sys.executable, str(SCRIPT), "run", str(packed), "--out", str(out)]
    command += ["--processes", "2", "--seeds", "2", "--minutes", "5", "--device", "cpu"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280)
    assert said.returncode == 0, said.stderr
    assert "2 seeds in" in said.stdout
    told = [json.loads(text) for text in said.stdout.splitlines() if text.startswith("{")]
    assert sorted(line["seed"] for line in told) == [1, 2]
    with (out / "slices-0.jsonl").open("a") as file:
        file.write('{"seed": 9, "arms": {')  # as if the time had ended here
    results = tool.join(list(tool._lines(out)), str(scale))
    assert results.seeds == (1, 2)
    (table,) = results.experiments[0].tables
    assert [row.label for row in table.rows] == ["Classical", "mixup", "Noise", "SIGN"]
    (primary,) = [each for each in table.comparisons if each.family == "primary"]
    assert (primary.paired_by, primary.seeds) == ("images", 2)
    results.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json").seeds == (1, 2)


def test_no_seed_begins_that_would_not_end_in_time(tool, scale, tmp_path):
    packed, out = tmp_path / "packed.safetensors", tmp_path / "out"
    splits = load_data("digits", train_size=20, test_size=20, image_size=16)
    tool.pack(splits, plain(load_scale(str(scale))), packed)
    command = [sys.executable, str(SCRIPT), "run", str(packed), "--out", str(out)]
    command += ["--processes", "1", "--minutes", "0", "--device", "cpu"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert "0 seeds in" in said.stdout
