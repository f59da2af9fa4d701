"""Every command on forty real digits: files, numbers, JSON, and what goes wrong at run time.

Those that work with stores are in test_store_commands.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command_parts import TINY, from_stdout

import sign_ext
from sign_ext.cli import main
from sign_ext.data import fingerprint, load_data
from sign_ext.ops.native import NATIVE
from sign_ext.training import load_checkpoint


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
    words = "(40 and 80 transformed versions of them)" if mode == "add" else "transformed versions"
    (line,) = (line for line in captured.err.splitlines() if line.startswith("training on "))
    assert line.startswith(f"training on {count} images")
    assert words in line
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


def test_one_draw_has_no_deviation(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "--checkpoint", str(trained), "--test-size", "30", "--draws", "1"]
    assert main(arguments) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "50 pixels off" in line)
    assert "one draw" in line
    assert "deviation" not in line


def test_calibrate_says_that_a_split_has_fewer_images(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["calibrate", "--checkpoint", str(trained), "--images", "270"]
    assert main([*arguments, "--steps", "1", "--step-sizes", "1"]) == 0
    captured = capsys.readouterr()
    assert "the validation split has 269 images, and --images is 270: all" in captured.err
    assert "K = 1, 269 images" in captured.out


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


@pytest.mark.parametrize("columns", [60, 80])
def test_info_is_as_wide_as_told_and_shows_no_python(
    columns: int,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["info", "--checkpoint", str(trained), "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= columns
    assert "{" not in text
    # The words of the cells are all there, however they are broken into lines.
    assert "network float32, iterate float32" in " ".join(text.split())
    if NATIVE.loaded:  # answers that hold commas have lines of their own
        starts = [line.strip() for line in text.splitlines()]
        assert any(line.startswith("fused, ") for line in starts)


def test_info(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--checkpoint", str(trained), "--device", "cpu", "--json"]) == 0
    facts = from_stdout(capsys)
    assert facts["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"native", "cuda", "cpu_target", "module"} <= set(facts["build"])
    assert set(facts["installation"]) == {"source", "platforms"}
    assert facts["backends"]["autograd"] == "yes"
    assert facts["backends"]["graphed"].startswith("no: ")
    assert facts["sign"]["backend"] == ("fused" if NATIVE.loaded else "autograd")
    assert facts["checkpoint"]["config"]["model"]["name"] == "basic_cnn"
    assert main(["info", "--checkpoint", str(trained), "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "versions" in text
    assert "Linear" in text  # Φ, the input of the final Linear


def test_info_tells_machine_code_from_ptx(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {**sign_ext.build_config(), "arches": ["8.0", "9.0", "12.0+PTX"]}
    monkeypatch.setattr(sign_ext, "build_config", lambda: config)
    assert main(["info", "--device", "cpu", "--json"]) == 0
    build = from_stdout(capsys)["build"]
    assert build["gpu_machine_code"] == ["8.0", "9.0", "12.0"]
    assert build["gpu_ptx"] == ["12.0"]
    assert main(["info", "--device", "cpu"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["gpu_machine_code", "8.0,", "9.0,", "12.0"] in lines
    assert ["gpu_ptx", "12.0"] in lines


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["train", "--data", "digit", "--model", "basic_cnn", "--out", "OUT"], 2, "cifar10"),
        (["train", "--data", "digits", "--model", "basic-cnn", "--out", "OUT"], 2, "'basic_cnn'"),
        (["demo", "--model", "cnn", "--out", "OUT"], 2, "mobilenet_v2"),
        (["demo", "--model", "zzz", "--out", "OUT"], 2, "--model is 'zzz'; accepted: basic_cnn"),
        (["demo", "--data", "nowhere", "--out", "OUT"], 2, "nowhere"),
        (["evaluate", "--checkpoint", "OUT/none.safetensors"], 1, "none.safetensors"),
        (["transform", "--checkpoint", "OUT/none", "--out", "OUT"], 1, "No checkpoint"),
        (["calibrate", "--checkpoint", "OUT"], 1, "holds no model.safetensors"),
        (["demo", "--data", "cifar10", "--data-root", "OUT", "--out", "OUT"], 1, "cifar"),
        (["demo", "--data-root", "OUT", "--out", "OUT"], 1, "cifar"),  # without --data: CIFAR-10
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


@pytest.mark.parametrize("command", [["demo"], ["reproduce", "table1"]])
def test_what_runs_in_one_process_says_so(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*command, "--out", "/nowhere/at/all"]) == 2
    assert "runs in one process, and WORLD_SIZE is 2" in capsys.readouterr().err


def test_evaluate_doubts_an_accuracy_that_guessing_gives(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sign_ext.training import load_checkpoint, save_checkpoint

    model, config = load_checkpoint(trained)
    with torch.no_grad():
        model.network.classifier.weight.zero_()
    save_checkpoint(tmp_path / "model.safetensors", model, config)
    arguments = ["evaluate", "--test-size", "100", "--draws", "1", "--json", "--checkpoint"]
    assert main([*arguments, str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "is what guessing gives (10.0% for 1 of 10 classes" in captured.err
    assert json.loads(captured.out)["accuracy"] < 0.2


def test_calibrate_doubts_an_accuracy_that_guessing_gives(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sign_ext.training import load_checkpoint, save_checkpoint

    model, config = load_checkpoint(trained)
    with torch.no_grad():
        model.network.classifier.weight.mul_(1e-6)  # the bias alone decides
    save_checkpoint(tmp_path / "model.safetensors", model, config)
    arguments = ["calibrate", "--checkpoint", str(tmp_path), "--images", "60", "--steps", "1"]
    assert main([*arguments, "--step-sizes", "1"]) == 0
    assert "without SIGN: accuracy 10.0% on 60 images is what guessing" in capsys.readouterr().err


def test_the_steps_of_calibrate_and_transform_agree() -> None:
    from sign_ext.commands import calibrate, transform

    assert calibrate.Options.steps == transform.Options.steps == 50
    assert "--images 8" in calibrate.__doc__  # a quick look


def test_evaluate_names_the_size_that_differs_from_training(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sign_ext.training import load_checkpoint, save_checkpoint

    model, config = load_checkpoint(trained)
    with torch.no_grad():
        model.network.classifier.weight.zero_()
    save_checkpoint(tmp_path / "model.safetensors", model, config)
    arguments = ["evaluate", "--test-size", "100", "--draws", "1", "--checkpoint", str(tmp_path)]
    assert main([*arguments, "--image-size", "17"]) == 0
    error = capsys.readouterr().err
    assert "trained on images of 16×16, and --image-size 17 gives it 17×17" in error
    assert "leave --image-size out. accuracy" in error
    assert main([*arguments, "--image-size", "16"]) == 0
    assert "leave --image-size out" not in capsys.readouterr().err


def test_data_that_only_the_checkpoint_names_and_is_gone(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sign_ext.training import load_checkpoint, save_checkpoint

    model, config = load_checkpoint(trained)
    config["data"] = {**config["data"], "name": "photos"}
    save_checkpoint(tmp_path / "model.safetensors", model, config)
    for command in (["evaluate"], ["transform", "--out", str(tmp_path / "out")]):
        assert main([*command, "--checkpoint", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert "was trained on 'photos', as its checkpoint records" in error
        assert "give --data" in error
