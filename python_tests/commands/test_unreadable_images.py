"""Damaged images and odd file names, from the folder to the trained network."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from command_parts import stdout_of
from image_folders import PARTS, SIZE, read_pixels, write_images, write_network

from sign_ext.cli import main
from sign_ext.commands.train import Options, training_set
from sign_ext.data import ImageSource, UnreadableImages, load_data, open_data
from sign_ext.store import load_transformed, verify

CLASSES = ("ant", "bee")
# By position in the split: of ant and bee five training, two validation and three test images.
BAD = {
    "train/ant/1.png": b"",
    "train/bee/0.png": b"no image at all",
    "train/bee/4.png": None,  # cut short
    "validation/ant/0.png": b"\x89PNG\r\n\x1a\n",
    "test/bee/2.png": b"BM" + bytes(40),
}


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = write_images(tmp_path / "photos", CLASSES, rng)
    for name, content in BAD.items():
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:60] if content is None else content)
    return folder


def train_arguments(data: Path, out: Path, *more: str) -> list[str]:
    where = ["--data", str(data), "--image-size", str(SIZE), "--out", str(out)]
    return ["train", *where, "--model", "basic_cnn", "--epochs", "1", *more]


def transform_arguments(network: Path, data: Path, out: Path, *more: str) -> list[str]:
    where = ["--checkpoint", str(network), "--data", str(data), "--out", str(out)]
    return ["transform", *where, "--steps", "2", "--snapshots", "1", "2", "--step-size", "9", *more]


def good_of(folder: Path, part: str) -> list[Path]:
    files = sorted((folder / part).glob("*/*.png"))
    return [file for file in files if file.relative_to(folder).as_posix() not in BAD]


@pytest.mark.parametrize("command", ["train", "evaluate", "calibrate"])
def test_one_run_lists_every_bad_file(command, photos, tmp_path, capsys):
    if command == "train":
        arguments = train_arguments(photos, tmp_path / "run")
    else:
        network = write_network(tmp_path / "net", CLASSES)
        arguments = [command, "--checkpoint", str(network), "--data", str(photos)]
    assert main(arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    for name in BAD:
        assert sum(str(photos / name) in line for line in lines) == 1
    assert "5 images cannot be read" in lines[-1]
    assert "--on-error skip" in lines[-1]


def test_in_python_the_error_and_the_splits_list_them(photos):
    with pytest.raises(UnreadableImages) as caught:
        load_data(photos, image_size=SIZE)
    assert [each.key for each in caught.value.images] == list(BAD)
    assert all(name in str(caught.value) for name in BAD)
    again = pickle.loads(pickle.dumps(caught.value))  # from a worker process
    assert (str(again), again.images) == (str(caught.value), caught.value.images)
    splits = load_data(photos, image_size=SIZE, on_error="skip")
    assert [each.key for each in splits.skipped] == list(BAD)
    assert [(each.split, each.index) for each in splits.skipped] == [
        *(("train", 1), ("train", 5), ("train", 9)),
        *(("validation", 0), ("test", 5)),
    ]
    for part in PARTS:
        found, files = splits.part(part), good_of(photos, part)
        assert [CLASSES[label] for label in found.labels] == [file.parent.name for file in files]
        assert torch.equal(found.float(), torch.cat([read_pixels(file) for file in files]))
    with pytest.raises(ValueError, match="on_error='ignore'; accepted: fail, skip"):
        load_data(photos, on_error="ignore")
    for file in good_of(photos, "test"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="photos/test: none of its 6 images can be read"):
        load_data(photos, image_size=SIZE, on_error="skip")


def test_a_source_over_all_splits_numbers_its_images_through(photos):
    source = open_data(photos, split="all", image_size=SIZE)
    found = source.find_unreadable(0, len(source))
    assert [each.index for each in found] == [1, 5, 9, 10, 19]
    assert [each.key for each in found] == list(BAD)
    images, kept, others = source.read_readable(4, 12)
    assert kept == [4, 6, 7, 8, 11]
    assert [each.index for each in others] == [5, 9, 10]
    files = [photos / source.keys(position, position + 1)[0] for position in kept]
    assert torch.equal(images.float(), torch.cat([read_pixels(file) for file in files]))


def test_a_source_whose_reader_names_one_image_at_a_time(photos):
    """A reader of the user's own may raise any ValueError."""
    plain = open_data(photos, split="test", image_size=SIZE)

    def reader(start, stop):
        for position in range(start, stop):
            if position in (1, 2):
                raise ValueError(f"no {position}")
        return plain.reader(start, stop)

    fields = {name: getattr(plain, name) for name in plain.__dataclass_fields__}
    source = ImageSource(**{**fields, "reader": reader})
    images, kept, others = source.read_readable(0, 5)
    assert torch.equal(images, torch.cat([plain.read(i, i + 1) for i in (0, 3, 4)]))
    assert kept == [0, 3, 4]
    assert [(each.index, each.why) for each in others] == [(1, "no 1"), (2, "no 2")]


def test_evaluate_without_them(photos, tmp_path, torch_rng, capsys):
    network = write_network(tmp_path / "net", CLASSES)
    arguments = ["--checkpoint", str(network), "--data", str(photos), "--draws", "1", "--json"]
    assert main(["evaluate", *arguments, "--on-error", "skip"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert [each["key"] for each in found["skipped"]] == list(BAD)
    assert "left out 5 images that cannot be read" in printed.err
    assert found["images"] == 5
    assert main(["calibrate", *arguments[:4], "--steps", "1", "--on-error", "skip"]) == 0


def test_transform_lists_every_bad_file_and_skips_them(photos, tmp_path, torch_rng, capsys):
    network = write_network(tmp_path / "net", CLASSES)
    arguments = transform_arguments(network, photos, tmp_path / "store", "--shard-size", "2")
    assert main(arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    bad = [name for name in BAD if name.startswith("train")]
    assert "3 images cannot be read" in lines[-1]
    assert [next(n for n in bad if n in line) for line in lines[-4:-1]] == bad
    assert main([*arguments, "--on-error", "skip", "--json"]) == 0
    assert [each["key"] for each in json.loads(capsys.readouterr().out)["skipped"]] == bad
    assert verify(tmp_path / "store").faults == ()


def options(data: Path, store: Path, **more) -> Options:
    return Options(data=str(data), model="basic_cnn", out="unused", sign=(str(store),), **more)


@pytest.mark.parametrize(
    ("mode", "split"), [("add", "train"), ("replace", "train"), ("replace", "all")]
)
@pytest.mark.parametrize("removed", [False, True])
def test_a_store_with_skipped_images_is_trained_on(
    mode, split, removed, photos, tmp_path, torch_rng
):
    """Each version joins the label of its own original; a skipped image has neither."""
    network = write_network(tmp_path / "net", CLASSES)
    skip = ("--on-error", "skip")
    more = ("--shard-size", "3", "--split", split, *skip)
    assert main(transform_arguments(network, photos, tmp_path / "store", *more)) == 0
    if removed:  # what the error message advises
        for name in BAD:
            (photos / name).unlink()
    more = () if removed else skip
    arguments = train_arguments(photos, tmp_path / "run", "--sign", str(tmp_path / "store"), *more)
    assert main([*arguments, "--sign-mode", mode]) == 0
    files = good_of(photos, "train")
    assert len(files) == 7
    config = json.loads((tmp_path / "run/model.json").read_text())
    assert config["data"]["images"] == 7 * (3 if mode == "add" else 2)

    splits = load_data(photos, image_size=SIZE, on_error="skip")
    store = load_transformed(tmp_path / "store")
    joined = training_set(options(photos, tmp_path / "store", sign_mode=mode), splits, [store])
    versions = [store.tensor(1)[:7], store.tensor(2)[:7]]
    assert store.keys[:7] == tuple(file.relative_to(photos).as_posix() for file in files)
    assert (len(store) == 7) == (split == "train")
    originals = torch.cat([read_pixels(file) for file in files])
    parts = [originals, *versions] if mode == "add" else versions
    assert torch.equal(joined.images, torch.cat(parts))
    assert [CLASSES[label] for label in joined.labels] == [f.parent.name for f in files] * len(
        parts
    )


def test_an_image_that_was_damaged_after_the_transform(photos, tmp_path, torch_rng, capsys):
    network = write_network(tmp_path / "net", CLASSES)
    skip = ("--on-error", "skip")
    assert main(transform_arguments(network, photos, tmp_path / "store", *skip)) == 0
    (photos / "train/ant/3.png").write_bytes(b"")
    arguments = train_arguments(photos, tmp_path / "run", "--sign", str(tmp_path / "store"), *skip)
    assert main(arguments) == 1
    assert "'train/ant/3.png'" in capsys.readouterr().err


def test_an_image_that_was_repaired_after_the_transform(photos, tmp_path, torch_rng, rng):
    """It joins the training set as an original; it has no versions."""
    from PIL import Image

    network = write_network(tmp_path / "net", CLASSES)
    skip = ("--on-error", "skip")
    assert main(transform_arguments(network, photos, tmp_path / "store", *skip)) == 0
    pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photos / "train/bee/0.png")
    arguments = train_arguments(photos, tmp_path / "run", "--sign", str(tmp_path / "store"), *skip)
    assert main(arguments) == 0
    config = json.loads((tmp_path / "run/model.json").read_text())
    assert config["data"]["images"] == 8 + 2 * 7


def test_names_that_are_not_utf_8(tmp_path, rng, torch_rng):
    """A class, an image, a damaged image, the data set, the store and the run in Latin-1."""
    latin = {name: os.fsdecode(name.encode("latin-1")) for name in ("é", "kaputt-ß", "Länge", "Öl")}
    photos = write_images(tmp_path / latin["Länge"], ("ant", latin["Öl"]), rng)
    image, bad = f"train/ant/{latin['é']}.png", f"train/ant/{latin['kaputt-ß']}.png"
    (photos / "train/ant/0.png").rename(photos / image)
    (photos / bad).write_bytes(b"")
    network, store = tmp_path / latin["é"], tmp_path / f"store-{latin['é']}"
    assert main(train_arguments(photos, network)) == 1
    skip = ("--on-error", "skip", "--json")
    # JSON is UTF-8, with escapes for the bytes of names that are not.
    (skipped,) = json.loads(stdout_of(train_arguments(photos, network, *skip)))["skipped"]
    assert skipped["key"] == bad
    result = json.loads(stdout_of(transform_arguments(network, photos, store, *skip)))
    assert (result["out"], result["skipped"][0]["key"]) == (str(store), bad)

    opened = load_transformed(store)
    assert (store / "manifest.json").read_bytes().decode("utf-8")
    assert image in opened.keys
    assert opened.class_names == ("ant", latin["Öl"])
    assert [each.key for each in opened.skipped] == [bad]
    assert os.fsencode(bad) in stdout_of(["inspect", str(store)])
    described = json.loads(stdout_of(["inspect", str(store), "--json"]))
    assert described["class_names"] == ["ant", latin["Öl"]]
    assert main(["verify", str(store)]) == 0
    assert json.loads(stdout_of(transform_arguments(network, photos, store, *skip)))["made"] == 0
    again = train_arguments(photos, tmp_path / "two", "--sign", str(store), *skip)
    assert json.loads(stdout_of(again))["steps"] == 1
    arguments = ["--checkpoint", str(network), "--data", str(photos), "--draws", "1", *skip]
    assert latin["Öl"] in json.loads(stdout_of(["evaluate", *arguments]))["per_class"]
    assert os.fsencode(latin["Öl"]) in stdout_of(["evaluate", *arguments[:-1]])
