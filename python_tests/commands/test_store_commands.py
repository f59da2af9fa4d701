"""transform, inspect and verify on forty real digits: what they write, say and refuse."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from command_parts import TINY, from_stdout

from sign_ext import iterative_sign
from sign_ext.cli import main
from sign_ext.data import load_data
from sign_ext.store import load_transformed
from sign_ext.training import load_checkpoint


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


def test_only_profile_explains_the_engine(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["transform", *TINY, "--checkpoint", str(trained), "--out", str(tmp_path / "store")]
    assert main([*arguments, "--steps", "1"]) == 0
    said = capsys.readouterr().err
    assert "Φ is the input of 'network.classifier' (Linear" in said
    assert "digits: 1,259 training, 269 validation, 269 test images in 10 classes" in said
    assert "40 images, K = 1: computing takes about" in said
    internals = ("\narithmetic ", "\nlayout ", "\nproducts ")
    assert not any(word in said for word in internals)
    assert main([*arguments, "--steps", "2"]) == 1  # refused: nothing is computed
    assert "computing takes" not in (refused := capsys.readouterr().err)
    assert "Φ is" not in refused
    assert main([*arguments, "--steps", "2", "--overwrite", "--profile"]) == 0
    said = capsys.readouterr().err
    assert all(word in said for word in internals)


def test_verify_and_inspect(
    transformed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    shutil.copytree(transformed, store)
    assert main(["verify", str(store)]) == 0
    assert "is intact: 1 shard, " in capsys.readouterr().out
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
    assert "0 of 1 shard is intact" in captured.err
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
    assert main([*arguments, "--step-size", "100", "--out", str(tmp_path / "half")]) == 0
    assert re.search(r"the change is below 1 grey level \(0\.\d+ rms\)", capsys.readouterr().err)
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


def test_bad_sign_options_are_told(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["transform", "--checkpoint", str(trained), "--out", str(tmp_path / "t")]
    assert main([*common, "--steps", "2", "--snapshots", "3"]) == 2
    assert main([*common, "--layer", "network.clasifier", "--train-size", "10"]) == 2
    error = capsys.readouterr().err
    assert "did you mean 'classifier'?" in error or "did you mean 'network.classifier'?" in error
    assert "modules are" in error
    assert "named_modules" not in error
    assert main([*common, "--clamp", "5", "1", "--train-size", "10"]) == 1
    assert "reversed" in capsys.readouterr().err
    assert not list((tmp_path / "t").glob("*"))


@pytest.mark.slow
def test_step_size_auto(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    out = tmp_path / "store"
    network = ["--checkpoint", str(trained), "--steps", "2"]
    arguments = ["transform", *TINY[:2], *TINY[4:], *network, "--out", str(out)]
    arguments += ["--split", "validation", "--json"]
    assert main([*arguments, "--step-size", "auto"]) == 0
    made = capsys.readouterr()
    where = [*TINY[:2], *TINY[4:], "--split", "train", "--json"]
    assert main(["calibrate", *network, *where]) == 0
    proposed = from_stdout(capsys)["proposed"]
    recipe = load_transformed(out).recipe
    assert recipe["settings"]["step_size"] == recipe["calibration"]["step_size"] == proposed
    assert recipe["calibration"]["images"] == 64
    assert f"step size {proposed:g}, proposed for 64 images of digits/train" in made.err
    assert "computing takes about" in made.err
    monkeypatch.setattr("sign_ext.SignTransform.calibrate", None)  # not even asked
    assert main([*arguments, "--step-size", "auto"]) == 0
    again = capsys.readouterr()
    assert f"step size {proposed:g}, as recorded in" in again.err
    assert json.loads(again.out)["made"] == 0
    # A number, be it the same, is another recipe.
    assert main([*arguments, "--step-size", f"{proposed:g}"]) == 1
    assert "calibration" in capsys.readouterr().err
    assert main([*arguments, "--step-size", "much"]) == 2
    assert "auto" in capsys.readouterr().err
