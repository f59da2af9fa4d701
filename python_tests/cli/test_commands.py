"""Every command on forty real digits: files, numbers, JSON, and what goes wrong at run time."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sign_ext import iterative_sign
from sign_ext.cli import main
from sign_ext.data import fingerprint, load_data
from sign_ext.ops.native import NATIVE
from sign_ext.store import load_transformed
from sign_ext.training import load_checkpoint

TINY = ("--data", "digits", "--train-size", "40", "--image-size", "16", "--seed", "3")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `sign-ext train` left behind after one epoch."""
    out = tmp_path_factory.mktemp("cli") / "trained"
    code = main(["train", *TINY, "--model", "basic_cnn", "--epochs", "1", "--out", str(out)])
    assert code == 0
    return out


@pytest.fixture(scope="module")
def transformed(trained: Path) -> Path:
    """A folder that `sign-ext transform` left behind: K = 1 and 2."""
    out = trained.parent / "transformed"
    arguments = ["--checkpoint", str(trained / "model.safetensors"), "--out", str(out)]
    arguments += ["--steps", "2", "--snapshots", "1", "2", "--step-size", "20"]
    assert main(["transform", *TINY, *arguments]) == 0
    return out


def from_stdout(capsys: pytest.CaptureFixture[str]) -> Any:
    """Parse stdout, which must be JSON alone."""
    return json.loads(capsys.readouterr().out)


def test_train_leaves_a_checkpoint_that_can_be_rebuilt(trained: Path) -> None:
    model, config = load_checkpoint(trained / "model.safetensors")
    assert config == json.loads((trained / "model.json").read_text())
    assert config["model"]["name"] == "basic_cnn"
    assert config["model"]["image_shape"] == [3, 16, 16]
    train = load_data("digits", seed=3, train_size=40, image_size=16).train
    assert config["data"]["fingerprint"] == fingerprint(train)
    assert model(train.float()).shape == (40, 10)


def test_train_refuses_to_overwrite_by_accident(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "model.safetensors").read_bytes()
    again = ["train", *TINY, "--model", "basic_cnn", "--epochs", "1", "--out", str(trained)]
    assert main(again) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*again, "--resume", "--overwrite"]) == 2
    assert main([*again, "--resume", "--json"]) == 0  # complete: nothing is left to do
    assert (trained / "model.safetensors").read_bytes() == before


def test_train_seed_fixes_weights(trained: Path, tmp_path: Path) -> None:
    arguments = ["train", *TINY, "--model", "basic_cnn", "--epochs", "1"]
    assert main([*arguments, "--out", str(tmp_path / "same")]) == 0
    assert main([*arguments, "--seed", "4", "--out", str(tmp_path / "other")]) == 0
    first, _ = load_checkpoint(trained)
    same, _ = load_checkpoint(tmp_path / "same")
    other, _ = load_checkpoint(tmp_path / "other")
    pairs = zip(first.parameters(), same.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    pairs = zip(first.parameters(), other.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


def test_transform_writes_what_iterative_sign_returns(trained: Path, transformed: Path) -> None:
    stored = load_transformed(transformed)
    model, _ = load_checkpoint(trained)
    train = load_data("digits", seed=3, train_size=40, image_size=16).train
    expected = iterative_sign(model, train.float(), 2, step_size=20.0, snapshots=(1, 2))
    assert sorted(stored.snapshots) == [1, 2]
    for k, images in stored.snapshots.items():
        moved = images - train.float()
        torch.testing.assert_close(moved, expected[k] - train.float(), rtol=1e-4, atol=1e-4)
        assert moved.abs().max() > 0
    assert torch.equal(stored.labels, train.labels)


def test_recipe_says_how_it_was_made(trained: Path, transformed: Path) -> None:
    recipe = load_transformed(transformed).recipe
    checkpoint = (trained / "model.safetensors").read_bytes()
    assert recipe["checkpoint"]["sha256"] == hashlib.sha256(checkpoint).hexdigest()
    assert recipe["checkpoint"]["model"]["name"] == "basic_cnn"
    assert recipe["settings"]["step_size"] == 20
    assert recipe["settings"]["snapshots"] == [1, 2]
    assert recipe["split"] == {"name": "train", "train_size": 40, "seed": 3}
    assert "Linear" in recipe["source_layer"]
    assert "torch" in recipe["versions"]


def test_transform_goes_on_and_overwrites_only_when_told(
    trained: Path, transformed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "store"
    shutil.copytree(transformed, out)
    arguments = ["transform", *TINY, "--checkpoint", str(trained), "--out", str(out)]
    assert main([*arguments, "--steps", "1"]) == 1
    error = capsys.readouterr().err
    assert "settings.steps: 2 in the store, 1 now" in error
    assert "--overwrite" in error
    assert load_transformed(out).steps == (1, 2)
    same = ["--steps", "2", "--snapshots", "1", "2", "--step-size", "20", "--json"]
    assert main([*arguments, *same]) == 0
    assert from_stdout(capsys)["kept"] == 1
    damaged = out / "shard-000000.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    assert main([*arguments, *same]) == 0
    captured = capsys.readouterr()
    assert "shard-000000.safetensors is damaged" in captured.err
    assert json.loads(captured.out)["made"] == 1
    assert main([*arguments, "--steps", "1", "--overwrite"]) == 0
    assert load_transformed(out).steps == (1,)


def test_verify_and_inspect(
    transformed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    shutil.copytree(transformed, store)
    assert main(["verify", str(store)]) == 0
    assert "is whole: 1 shards" in capsys.readouterr().out
    assert main(["inspect", str(store)]) == 0
    text = capsys.readouterr().out
    assert "40 of 40, 3×16×16, float32" in text
    assert "K = 1, 2" in text
    assert main(["inspect", str(store), "--json"]) == 0
    told = from_stdout(capsys)
    assert told["complete"] is True
    assert told["recipe"]["settings"]["steps"] == 2
    (store / "shard-000000.safetensors").write_bytes(b"short")
    assert main(["verify", str(store)]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("shard-000000.safetensors has 5 bytes")
    assert "0 of 1 shards" in captured.err
    assert main(["verify", str(store), "--json"]) == 1
    assert from_stdout(capsys)["whole"] == 0
    for command in ("verify", "inspect"):
        assert main([command, str(tmp_path)]) == 1
        assert "is not a store" in capsys.readouterr().err


def test_transform_profile_memory_and_dtype(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["transform", *TINY, "--checkpoint", str(trained), "--steps", "1"]
    arguments += ["--step-size", "100", "--out", str(tmp_path / "t"), "--dtype", "bfloat16"]
    assert main([*arguments, "--memory", "lots"]) == 2
    assert "lots" in capsys.readouterr().err
    assert main([*arguments, "--memory", "1MB"]) == 1
    assert "(--memory) allows 1 MB" in capsys.readouterr().err
    assert main([*arguments, "--profile", "--split", "all", "--shard-size", "200"]) == 0
    captured = capsys.readouterr()
    assert "waiting for decoding" in captured.err
    assert "bfloat16" in captured.out
    assert len(load_transformed(tmp_path / "t")) == 40 + 269 + 269


def test_a_tiny_change_is_pointed_out(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["transform", *TINY, "--checkpoint", str(trained), "--steps", "1"]
    assert main([*arguments, "--step-size", "1e-4", "--out", str(tmp_path / "small")]) == 0
    error = capsys.readouterr().err
    assert "sign-ext calibrate" in error
    assert "sign-ext: warning: δ was negligible" in error
    assert main([*arguments, "--step-size", "1e5", "--out", str(tmp_path / "large")]) == 0
    assert "sign-ext calibrate" not in capsys.readouterr().err


def test_transform_json_and_other_splits(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["transform", "--checkpoint", str(trained), "--steps", "1", "--split", "test"]
    arguments += ["--clamp", "0", "255", "--step-size", "100", "--json"]
    assert main([*arguments, "--out", str(tmp_path / "t")]) == 0
    summary = from_stdout(capsys)
    images = load_transformed(tmp_path / "t").snapshots[1]
    original = load_data("digits", image_size=16).test
    assert images.min() >= 0
    assert images.max() <= 255
    change = images - original.float()
    rms = float(change.square().mean().sqrt())
    # The change is looked at in 256 of the images.
    assert summary["change"]["1"]["rms"] == pytest.approx(rms, rel=0.05)
    assert summary["images"] == len(original)


@pytest.mark.parametrize(("mode", "count"), [("add", 120), ("replace", 80)])
def test_train_on_originals_and_snapshots(
    transformed: Path, tmp_path: Path, mode: str, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sign"
    arguments = ["train", *TINY, "--model", "basic_cnn", "--epochs", "1", "--batch-size", "40"]
    arguments += ["--augment", "classical", "--sign", str(transformed), "--sign-mode", mode]
    assert main([*arguments, "--out", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["steps"] == count // 40
    assert "without flips" in captured.err
    config = json.loads((out / "model.json").read_text())
    assert config["data"]["images"] == count
    assert config["sign"] == {"folders": [str(transformed)], "mode": mode, "random_k": False}


def test_snapshots_of_other_images_are_refused(
    transformed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ["--data", "digits", "--train-size", "40", "--image-size", "16", "--seed", "5"]
    arguments = ["train", *other, "--model", "basic_cnn", "--epochs", "1"]
    assert main([*arguments, "--sign", str(transformed), "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "was not made from this training set" in error
    assert "--seed" in error


def test_evaluate_prints_json_alone(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "--checkpoint", str(trained), "--test-size", "30", "--draws", "2"]
    assert main([*arguments, "--json"]) == 0
    result = from_stdout(capsys)
    model, _ = load_checkpoint(trained)
    test = load_data("digits", test_size=30, image_size=16).test
    with torch.no_grad():
        right = model(test.float()).argmax(1) == test.labels
    assert result["accuracy"] == pytest.approx(float(right.double().mean()))
    assert result["images"] == 30
    assert set(result["per_class"]) == set(test.class_names)


def test_evaluate_prints_a_table(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "--checkpoint", str(trained), "--test-size", "30", "--draws", "2"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    for row in ("clean", "50 pixels off", "Gaussian noise", "class seven"):
        assert row in text


def test_calibrate(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["calibrate", "--checkpoint", str(trained), "--images", "20", "--steps", "2"]
    arguments += ["--step-sizes", "1", "10"]
    assert main([*arguments, "--json"]) == 0
    result = from_stdout(capsys)
    rms = {row["step_size"]: row["rms"] for row in result["rows"]}
    assert rms[0] == 0
    assert 0 < rms[1] < rms[10]
    assert result["proposed"] > 0
    assert result["images"] == 20
    assert main(arguments) == 0
    assert "proposed" in capsys.readouterr().out


def test_info(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--checkpoint", str(trained), "--device", "cpu", "--json"]) == 0
    facts = from_stdout(capsys)
    assert facts["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"native", "cuda"} <= set(facts["build"])
    assert facts["backends"]["autograd"] == "yes"
    assert facts["backends"]["graphed"].startswith("no: ")
    assert facts["sign"]["backend"] == ("fused" if NATIVE.loaded else "autograd")
    assert facts["checkpoint"]["config"]["model"]["name"] == "basic_cnn"
    assert main(["info", "--checkpoint", str(trained), "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "versions" in text
    assert "Linear" in text  # Φ, the input of the final Linear


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["train", "--data", "digit", "--model", "basic_cnn", "--out", "OUT"], 2, "cifar10"),
        (["train", "--data", "digits", "--model", "basic-cnn", "--out", "OUT"], 2, "'basic_cnn'"),
        (["demo", "--model", "cnn", "--out", "OUT"], 2, "mobilenet_v2"),
        (["demo", "--data", "nowhere", "--out", "OUT"], 2, "nowhere"),
        (["evaluate", "--checkpoint", "OUT/none.safetensors"], 1, "none.safetensors"),
        (["transform", "--checkpoint", "OUT/none", "--out", "OUT"], 1, "No checkpoint"),
        (["calibrate", "--checkpoint", "OUT"], 1, "holds no model.safetensors"),
        (["demo", "--data", "cifar10", "--data-root", "OUT", "--out", "OUT"], 1, "cifar"),
        (["demo", "--out", "FILE/demo"], 1, "cannot be written"),
        (["train", "--data", "digits", "--model", "basic_cnn", "--out", "FILE"], 1, "FILE"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(
    arguments: list[str],
    code: int,
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "FILE").write_text("a file, not a folder")
    (tmp_path / "OUT").mkdir()
    places = {"OUT": str(tmp_path / "OUT"), "FILE": str(tmp_path / "FILE")}
    for name, place in places.items():
        arguments = [word.replace(name, place) for word in arguments]
    assert main(arguments) == code
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("sign-ext: error: ")]
    assert len(lines) == 1
    assert says.lower() in lines[0].lower()
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_bad_sign_options_are_told(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["transform", "--checkpoint", str(trained), "--out", str(tmp_path / "t")]
    assert main([*common, "--steps", "2", "--snapshots", "3"]) == 2
    assert main([*common, "--layer", "network.nothing", "--train-size", "10"]) == 1
    assert "network.nothing" in capsys.readouterr().err
    assert main([*common, "--clamp", "5", "1", "--train-size", "10"]) == 1
    assert "reversed" in capsys.readouterr().err
    assert not list((tmp_path / "t").glob("*"))


@pytest.mark.parametrize("command", [["demo"], ["reproduce", "table1"]])
def test_what_runs_in_one_process_says_so(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*command, "--out", "/nowhere/at/all"]) == 2
    assert "runs in one process, and WORLD_SIZE is 2" in capsys.readouterr().err
