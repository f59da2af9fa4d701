"""--out: a folder of data, of weights or of another kind of run is refused, and nothing lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command_parts import TINY
from safetensors.torch import save_file

from sign_ext import SignTransform
from sign_ext.cli import main
from sign_ext.commands import console
from sign_ext.commands.console import UsageError
from sign_ext.commands.out_folder import check_keeps_weights, check_not_in_data

TRAIN = ("train", *TINY, "--model", "basic_cnn", "--epochs", "1")


def content(folder: Path) -> dict[str, bytes]:
    files = (each for each in folder.rglob("*") if each.is_file())
    return {str(each.relative_to(folder)): each.read_bytes() for each in files}


@pytest.mark.parametrize("inside", [(), ("runs", "new")])
def test_the_data_folder_is_refused(tmp_path: Path, inside: tuple[str, ...]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (tmp_path / "link").symlink_to(photos)
    out = tmp_path.joinpath("link", *inside)
    with pytest.raises(UsageError, match=r"--out .* --data .*photos"):
        check_not_in_data(str(out), str(photos))
    for other in ("digits", None, str(tmp_path / "absent"), str(photos / "a")):
        check_not_in_data(str(out), other)
    check_not_in_data(str(tmp_path / "photos2"), str(photos))


def test_commands_refuse_the_data_folder(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cat.txt").write_text("mine")
    for command in (
        ["train", "--model", "basic_cnn", "--overwrite"],
        ["transform", "--checkpoint", str(trained)],
    ):
        arguments = [*command, "--data", str(tmp_path), "--out", str(tmp_path)]
        assert main(arguments) == 2
        assert "would be read as a part of the data set" in capsys.readouterr().err
    assert content(tmp_path) == {"cat.txt": b"mine"}


def test_weights_in_out_are_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(2)}, weights)
    before = weights.read_bytes()
    given = ["--weights", str(weights), "--out", str(tmp_path), "--overwrite"]
    assert main([*TRAIN, *given]) == 2
    assert "--weights" in capsys.readouterr().err
    assert main([*TRAIN, *given[2:]]) == 1
    assert "no training run of sign_ext wrote" in capsys.readouterr().err
    assert content(tmp_path) == {"model.safetensors": before}
    with pytest.raises(UsageError, match="--model hf:"):
        check_keeps_weights(str(tmp_path), {"--model hf:": str(tmp_path)})
    check_keeps_weights(str(tmp_path / "new"), {"--weights": str(weights), "--model hf:": None})


def test_runs_and_stores_are_kept_apart(
    trained: Path, transformed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, store = tmp_path / "run", tmp_path / "store"
    shutil.copytree(trained, run)
    shutil.copytree(transformed, store)
    before = content(run), content(store)
    given = ["--checkpoint", str(trained), "--steps", "1", "--out", str(run), "--overwrite"]
    assert main(["transform", *TINY, *given]) == 1
    assert "last.safetensors, the file of a network or of a training" in capsys.readouterr().err
    assert main([*TRAIN, "--out", str(store), "--overwrite"]) == 1
    assert "holds a store of transformed images" in capsys.readouterr().err
    assert (content(run), content(store)) == before


def test_a_store_given_twice_is_refused(
    transformed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link").symlink_to(transformed)
    twice = ["--sign", str(transformed), str(tmp_path / "link")]
    assert main([*TRAIN, *twice, "--out", str(tmp_path / "out")]) == 2
    assert "twice" in capsys.readouterr().err


def test_a_store_of_other_settings_is_refused_before_calibrating(
    trained: Path,
    transformed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def calibrate(*arguments: object, **options: object) -> None:
        raise AssertionError("calibrates")

    monkeypatch.setattr("sign_ext.SignTransform.calibrate", calibrate)
    given = ["--checkpoint", str(trained), "--out", str(transformed), "--steps", "3"]
    assert main(["transform", *TINY, *given, "--step-size", "auto"]) == 1
    error = capsys.readouterr().err
    assert "settings.steps: 2 in the store, 3 now" in error
    assert "calibration (--step-size auto): nothing in the store, recorded now" in error
    assert "step_size" not in error
    assert json.loads((transformed / "manifest.json").read_text())["complete"]


def test_verify_tells_unfinished_from_damaged(
    transformed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    shutil.copytree(transformed, store)
    path = store / "manifest.json"
    manifest = json.loads(path.read_text())
    (shard,) = manifest["shards"]
    record = store / shard.pop("file").replace(".safetensors", ".json")
    record.write_text(json.dumps(shard))
    path.write_text(
        json.dumps({**manifest, "images": 50, "shard_size": 40, "shards": [], "complete": False})
    )
    assert main(["verify", str(store)]) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "the store is unfinished: it has 1 of 2 shards, and manifest.json lists no shards yet"
    ]
    assert "is unfinished; its 1 shard so far is intact" in captured.err
    assert "damaged" not in captured.err


def test_transform_times_and_counts_its_own_work(
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("sign_ext.commands.transform.time.perf_counter", lambda: now[0])
    calibrate = SignTransform.calibrate

    def slow(*arguments: Any, **options: Any) -> Any:
        now[0] += 1000
        return calibrate(*arguments, **options)

    monkeypatch.setattr(SignTransform, "calibrate", slow)
    labels, progress = [], console.progress

    def labelled(label: str) -> Any:
        labels.append(label)
        return progress(label)

    monkeypatch.setattr(console, "progress", labelled)
    given = ["--checkpoint", str(trained), "--out", str(tmp_path / "s"), "--steps", "1"]
    assert main(["transform", *TINY, *given, "--step-size", "auto", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["seconds"] < 1000
    assert labels == ["calibrating, images × steps", "transforming, images × steps"]


def test_a_changed_run_is_refused_in_sentences(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = [*TRAIN[:-1], "2", "--out", str(trained)]
    assert main([*changed, "--resume"]) == 1
    error = capsys.readouterr().err
    assert "settings.epochs: 1 in the folder, 2 now. Use the original arguments" in error
    assert "--overwrite" in error
    assert "overwrite=True" not in error
