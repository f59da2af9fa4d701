"""`sign-ext bench` on small networks: what it lists, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sign_ext import iterative_sign
from sign_ext.benchmarking import contenders, fixed_share
from sign_ext.benchmarking.contenders import CAPTURED, COMPILED, FROZEN, NAIVE
from sign_ext.benchmarking.fixed_share import FixedShare
from sign_ext.benchmarking.task import vary_norms
from sign_ext.cli import main
from sign_ext.models import build_model
from sign_ext.ops.native import NATIVE
from sign_ext.training import save_checkpoint

QUICK = ("--images", "3", "--steps", "2", "--rounds", "2", "--device", "cpu")
NETWORKS = """
import torch
from torch import nn

def small():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 3 * 5, 3))

class Turned(nn.Module):
    def forward(self, x):
        assert not x.isnan().any()  # no recording can hold it
        return x.transpose(1, 2).contiguous()

def unknown_to_the_compiler():
    return nn.Sequential(nn.Conv2d(3, 4, 3), Turned(), nn.Flatten(), nn.Linear(4 * 36, 3))

class Normed(nn.Sequential):
    def forward(self, x):
        return super().forward(x.flatten(2).transpose(1, 2).mean(1))

def new_layer_norm():
    return Normed(nn.Linear(3, 12), nn.GELU(), nn.LayerNorm(12), nn.Linear(12, 3))

def with_arguments(width):
    return nn.Conv2d(3, width, 3)

def no_network():
    return "a string"

constant = 3
"""


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with somebody's own file of networks, to be in."""
    (tmp_path / "somebodys_networks.py").write_text(NETWORKS)
    (tmp_path / "somebodys_broken_file.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))  # puts sys.path back afterwards
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Run the command and read its JSON."""
    assert main(["bench", *QUICK, *arguments, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_a_new_layer_norm_before_the_classifier_is_no_obstacle(
    networks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("--model", "somebodys_networks:new_layer_norm", "--image-shape", "3", "9", "7")
    assert main(["bench", *QUICK, *model]) == 0
    captured = capsys.readouterr()
    text = " ".join((captured.out + captured.err).split())
    assert "varies the weights of 1 normalisation layer, on which" in text
    assert "computes something else" not in text
    assert "sign_ext autograd" in text
    assert "SIGN changes nothing" not in text


def test_norms_are_varied_once_and_only_where_they_are_new(rng: np.random.Generator) -> None:
    trained = nn.GroupNorm(2, 4)
    with torch.no_grad():
        trained.weight.copy_(torch.from_numpy(rng.normal(size=4)))
    before = trained.weight.clone()
    plain = nn.LayerNorm(5, elementwise_affine=False)
    network = nn.Sequential(nn.Linear(3, 5), plain, nn.LayerNorm(5), trained)
    linear = network[0].weight.clone()
    assert vary_norms(network, seed=3) == 1
    assert torch.equal(trained.weight, before)
    assert torch.equal(network[0].weight, linear)
    varied = network[2].weight.detach()
    assert len(varied.unique()) == 5
    assert 0.5 <= float(varied.min()) <= float(varied.max()) <= 1.5
    assert vary_norms(network) == 0


def test_json_of_a_network_by_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "made" / "bench.json"
    result = bench(
        capsys,
        *("--model", "basic_cnn", "--image-size", "8", "--out", str(out)),
        *("--set-size", "700", "--total-steps", "30"),
    )
    assert json.loads(out.read_text()) == result
    assert [file.name for file in out.parent.iterdir()] == ["bench.json"]
    race = result["race"]
    assert (race["images"], race["image_shape"], race["steps"]) == (3, [3, 8, 8], 2)
    assert (race["rounds"], race["reference"], race["device"]) == (2, "float64", "cpu")
    rows = {row["name"]: row for row in race["rows"]}
    assert {NAIVE, FROZEN, "sign_ext autograd", "sign_ext fused"} <= set(rows)
    medians = [row["median"] for row in race["rows"]]
    assert medians == sorted(medians)
    assert rows[NAIVE]["speed"] == 1.0
    absent = {each["name"]: each["reason"] for each in race["absent"]}
    assert absent["sign_ext graphed"] == absent[CAPTURED] == "needs a CUDA device"
    assert COMPILED in absent
    assert result["auto"]["backend"] == ("fused" if NATIVE.loaded else "autograd")
    cost = result["cost"]
    of = rows[f"sign_ext {cost['backend']}"]
    assert cost["seconds"] == pytest.approx(700 * 30 / of["image_steps_per_second"])
    assert cost["sentence"].startswith("SIGN with K = 30 on 700 images of 3×8×8: about ")
    for each in result["too_small"]:
        assert each["size"] == {"--steps": 2, "--images": 3}[each["option"]]
        assert 0.2 < each["share"] <= 1
        assert each["enough"] <= {"--steps": 30, "--images": 128}[each["option"]]
    training = result["on_the_fly"]
    assert (training["images"], training["steps"], training["for_steps"]) == (3, 2, 30)
    each = training["with_sign"] - training["one_step"]
    assert training["with_more_steps"] == pytest.approx(training["with_sign"] + 28 * each)
    assert 0 < training["plain"] < training["with_sign"]
    for fact in ("cpu", "threads", "torch", "driver"):
        assert fact in result["machine"]
    assert result["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert result["command"].startswith("sign-ext bench ")
    assert "--model basic_cnn --image-size 8" in result["command"]
    assert "commit" in result


def test_the_table_ends_with_the_cost(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "basic_cnn", "--image-size", "8", "--backends", "autograd"]
    assert main(["bench", *QUICK, *arguments]) == 0
    captured = capsys.readouterr()
    lines = captured.out.strip().splitlines()
    for column in ("contender", "median", "speed", "images·steps/s", "memory an image", "error"):
        assert column in captured.out
    assert any(NAIVE in line and "1.00×" in line for line in lines)
    assert f"not timed: {CAPTURED} (needs a CUDA device)" in lines
    assert any(line.startswith("backend auto: ") for line in lines)
    assert lines[-2].startswith("on the fly: one training step on 3 images costs ")
    assert ", with SIGN K = 2 " in lines[-2]
    assert ", with K = 100 about " in lines[-2]
    assert lines[-1].startswith("SIGN with K = 100 on 50,000 images of 3×8×8: about ")
    assert "(autograd, 3 images at a time, " in lines[-1]
    assert "sign_ext fused" not in captured.out  # was not asked for
    assert "Φ is the input of" in captured.err


def test_a_forecast_from_too_little_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {}

    def one(task: Any, backend: str, *, steps: int, images: int) -> list[FixedShare]:
        asked.update(backend=backend, steps=steps, images=images)
        return [FixedShare("--steps", 2, 0.62, 30)]

    monkeypatch.setattr(fixed_share, "fixed_shares", one)
    arguments = ["--model", "basic_cnn", "--image-size", "8", "--backends", "autograd"]
    assert main(["bench", *QUICK, *arguments, "--set-size", "90"]) == 0
    captured = capsys.readouterr()
    assert "warning: --steps 2 is too small for a forecast: 62% of a timed call" in captured.err
    assert asked == {"backend": "autograd", "steps": 100, "images": 90}


def test_a_function_of_the_current_folder(
    networks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = bench(
        capsys,
        *("--model", "somebodys_networks:small", "--image-shape", "2", "5", "7"),
        *("--pixel-range", "1", "--layer", "1"),
    )
    assert result["network"]["class"] == "Sequential"
    assert result["network"]["parameters"] == 4 * 2 * 9 + 4 + 3 * 60 + 3
    assert result["network"]["source_layer"] == "the output of 'network.1' (ReLU)"
    assert result["race"]["image_shape"] == [2, 5, 7]
    assert len(result["race"]["rows"]) >= 4


def test_a_fallback_is_said(networks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", "somebodys_networks:unknown_to_the_compiler", "--image-size", "8"]
    assert main(["bench", *QUICK, *model]) == 0
    text = capsys.readouterr().out
    assert "backend auto: autograd, not fused (" in text
    assert "(autograd, 3 images at a time" in text
    if NATIVE.loaded:
        assert "fused was tried: " in text
        assert "not timed: sign_ext fused (UnsupportedOperation: " in text


def test_who_computes_something_else_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = contenders.ours

    def wrong(task: contenders.Task, backend: str) -> Any:
        if backend != "fused":
            return right(task, backend)

        def run(images: Tensor) -> Tensor:
            return iterative_sign(task.model, images, 1, step_size=1.2 * task.step_size)

        return run

    monkeypatch.setattr(contenders, "ours", wrong)
    result = bench(capsys, "--model", "basic_cnn", "--image-size", "8")
    absent = {each["name"]: each["reason"] for each in result["race"]["absent"]}
    assert "sign_ext fused" not in [row["name"] for row in result["race"]["rows"]]
    assert absent["sign_ext fused"].startswith("computes something else: its error is 0.")
    assert result["cost"]["backend"] == "autograd"


def test_a_checkpoint_tells_its_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = {"name": "basic_cnn", "num_classes": 3, "image_shape": [3, 12, 8], "options": {}}
    model = build_model("basic_cnn", num_classes=3, image_shape=(3, 12, 8))
    save_checkpoint(tmp_path / "model.safetensors", model, {"model": spec})
    result = bench(capsys, "--checkpoint", str(tmp_path), "--backends", "autograd")
    assert result["race"]["image_shape"] == [3, 12, 8]
    assert result["network"]["name"] == str(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "--checkpoint is required, or --model"),
        (["--model", "basic_cnn", "--checkpoint", "x"], 1, "No checkpoint at x"),
        (["--model", "basic-cnn"], 2, "did you mean 'basic_cnn'?"),
        (["--model", "basic-cnn"], 2, "MODULE:FUNCTION or FILE.py:FUNCTION"),
        (["--model", "no_such_module:build"], 2, "no module 'no_such_module'"),
        (["--model", "somebodys_networks:smal"], 2, "did you mean 'small'?"),
        (["--model", "somebodys_networks:constant"], 2, "constant is a int; accepted: a function"),
        (["--model", "somebodys_networks:no_network"], 2, "no_network returned a str"),
        (["--model", "somebodys_networks:with_arguments"], 2, "--model-options.width"),
        (["--model", "somebodys_broken_file:build"], 1, "a_package_that_is_not_there"),
        (["--model", "somebodys networks:small"], 2, "MODULE:FUNCTION is such as"),
        (["--model", "somebodys_networks:small"], 2, "does not take images of 3×8×8"),
        (["--model", "basic_cnn", "--image-shape", "3", "8", "8"], 2, "give one"),
        (["--model", "basic_cnn", "--backends", "fuse"], 2, "did you mean 'fused'?"),
        (["--model", "basic_cnn", "--precision", "tf32"], 2, "is for GPUs"),
        (["--model", "basic_cnn", "--layer", "network.nothing"], 2, "network.nothing"),
        (["--model", "basic_cnn", "--out", "."], 2, "is a folder"),
        (["--checkpoint", "nowhere.safetensors"], 1, "nowhere.safetensors"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(
    networks: Path,
    arguments: list[str],
    code: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", *QUICK, "--image-size", "8", *arguments]) == code
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("sign-ext: error: ")]
    assert len(lines) == 1
    assert says in lines[0]
    assert captured.out == ""


def test_own_networks_need_a_size(networks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--model", "somebodys_networks:small"]) == 2
    assert "--image-size or --image-shape" in capsys.readouterr().err
