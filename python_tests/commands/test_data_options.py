"""What commands say about the images they read, and the options that say how to read them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sign_ext.cli import main
from sign_ext.data import load_data

CLASSES = {"ant": 8, "bee": 12}
LEFT_OUT = {"hidden": 1, "unlabelled": 1}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty 12-bit images and a table of their labels, a hidden copy, an image without label."""
    rng = np.random.default_rng(5)
    root = tmp_path_factory.mktemp("data") / "photos"
    names = [name for name, count in CLASSES.items() for _ in range(count)]
    files = [f"{index:02d}.png" for index in range(len(names))]
    for file in (*files, "extra.png", ".ipynb_checkpoints/00-checkpoint.png"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 4096, (16, 16), dtype=np.uint16)).save(root / file)
    rows = "".join(f"{file},{name}\n" for file, name in zip(files, names, strict=True))
    (root.parent / "labels.csv").write_text("file,animal\n" + rows)
    return root


@pytest.fixture(scope="module")
def network(photos: Path) -> Path:
    out = photos.parent / "network"
    arguments = ["--data", str(photos), "--labels", str(photos.parent / "labels.csv")]
    arguments += ["--bit-depth", "12", "--image-size", "16", "--model", "basic_cnn"]
    assert main(["train", *arguments, "--epochs", "1", "--out", str(out)]) == 0
    return out


def check(data: dict[str, object]) -> None:
    assert data["images"] == 20
    assert data["classes"] == CLASSES
    assert data["left_out"] == LEFT_OUT
    assert data["cut"] == ["validation", "test"]


def test_train_says_what_it_found_before_it_trains(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--data", str(photos), "--labels", str(photos.parent / "labels.csv")]
    arguments += ["--label-columns", "file", "animal", "--image-size", "16", "--epochs", "1"]
    arguments += ["--model", "basic_cnn", "--json", "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert "has 16 bits a channel" in capsys.readouterr().err
    assert main([*arguments, "--bit-depth", "12"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    check(result["data"])
    assert result["data"]["converted"] == {"scaled": 20}
    said = printed.err
    for text in ("2 classes: ant 8, bee 12", "1 image without a label", "--split all"):
        assert said.index(text) < said.index("training on")
    config = json.loads((tmp_path / "out" / "model.json").read_text())
    assert config["data"]["reading"] == {
        "labels": str(photos.parent / "labels.csv"),
        "label_columns": ["file", "animal"],
        "bit_depth": 12,
    }


@pytest.mark.parametrize(("split", "images"), [("test", 3), ("all", 20)])
def test_evaluate_reads_as_training_did(
    photos: Path, network: Path, split: str, images: int, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--checkpoint", str(network), "--draws", "1", "--split", split]
    assert main([*arguments, "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["images"] == images
    check(result["data"])
    assert result["data"]["name"] == str(photos)
    assert "2 classes: ant 8, bee 12" in printed.err


def test_evaluate_names_the_split_in_its_table(
    network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--checkpoint", str(network), "--draws", "1", "--split", "train"]) == 0
    title = " ".join(capsys.readouterr().out.split())  # a long path breaks the line
    assert "training images" in title


def test_transform_and_calibrate(
    photos: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "store"
    arguments = ["--checkpoint", str(network), "--steps", "1", "--split", "all", "--json"]
    assert main(["transform", *arguments, "--step-size", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["images"] == 20
    check(result["data"])
    assert result["data"]["converted"] == {"scaled": 20}
    assert "images 20 scaled to 8 bits a channel" in printed.err
    arguments = ["calibrate", "--checkpoint", str(network), "--steps", "1", "--step-sizes", "1"]
    assert main([*arguments, "--json"]) == 0
    check(json.loads(capsys.readouterr().out)["data"])


def test_summary_is_what_the_files_hold(photos: Path) -> None:
    splits = load_data(photos, labels=photos.parent / "labels.csv", bit_depth=12)
    check(splits.summary.to_dict())
    assert len(splits.part("all")) == 20
