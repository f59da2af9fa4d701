"""Folders saved by Hugging Face's datasets: rows equal what was saved."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data_on_disk import encoded, saved

from sign_ext.data import load_data, open_data

datasets = pytest.importorskip("datasets", reason="pip install datasets")

from datasets.arrow_writer import ArrowWriter  # noqa: E402


def square(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)


def make(images: list[np.ndarray], labels: list[int], **changes: object) -> object:
    """A data set of some images, with other columns and features if asked."""
    features = {"image": datasets.Image(), "label": datasets.Value("int16"), **changes}
    cells = [{"bytes": encoded(each), "path": None} for each in images]
    data = {
        name: cells if isinstance(feature, datasets.Image) else labels
        for name, feature in features.items()
        if feature is not None
    }
    kept = {name: feature for name, feature in features.items() if feature is not None}
    return datasets.Dataset.from_dict(data, features=datasets.Features(kept))


def test_rows_equal_what_was_saved(tmp_path: Path, rng: np.random.Generator) -> None:
    images, labels = [square(rng) for _ in range(30)], [i % 3 for i in range(30)]
    # Shuffled, so that rows are found through the indices that the library keeps.
    order = rng.permutation(30)[:25]
    table = make(images, labels).select(order.tolist())
    table.save_to_disk(str(tmp_path / "set"), num_shards=3)
    root = tmp_path / "set"
    source = open_data(root, split="all")
    found = {
        image.numpy().transpose(1, 2, 0).tobytes(): int(label)
        for image, label in zip(source.read(0, 25), source.labels, strict=True)
    }
    assert found == {images[i].tobytes(): labels[i] for i in order}
    assert source.class_names == ("0", "1", "2")
    assert source.name == "set/all"
    assert source.note.startswith("images of set (25 in 3 classes, saved by Hugging Face's")
    assert source.keys(0, 1) == ["set/train/0"]


def test_predefined_splits_and_classes(tmp_path: Path, rng: np.random.Generator) -> None:
    parts = {
        name: saved(rng, [i % 3 for i in range(count)])
        for name, count in (("train", 21), ("validation", 6), ("test", 9))
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "a"))
    splits = load_data(tmp_path / "a")
    assert [len(each) for each in (splits.train, splits.validation, splits.test)] == [21, 6, 9]
    assert splits.class_names == ("ant", "bee", "cat")
    assert splits.test.labels.tolist() == [0, 1, 2] * 3

    del parts["validation"]
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "b"))
    held = load_data(tmp_path / "b")
    assert [len(each) for each in (held.train, held.validation, held.test)] == [18, 3, 9]
    assert torch.equal(held.test.images, splits.test.images)

    datasets.DatasetDict(other=parts["train"]).save_to_disk(str(tmp_path / "c"))
    alone = load_data(tmp_path / "c")
    assert alone.test.labels.bincount().tolist() == [1, 1, 1]

    two = {"Training": parts["train"], "dev": parts["test"]}
    datasets.DatasetDict(two).save_to_disk(str(tmp_path / "d"))
    held = load_data(tmp_path / "d")
    assert [len(each) for each in (held.train, held.validation, held.test)] == [18, 9, 3]
    assert held.summary.cut == ("test",)

    for names in (("test", "validation"), ("train", "test", "extra")):
        splits = dict.fromkeys(names, parts["train"])
        datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "-".join(names)))
        with pytest.raises(ValueError, match=f"has the splits {', '.join(names)}; accepted: train"):
            load_data(tmp_path / "-".join(names))


def test_a_saved_row_format_changes_nothing(tmp_path: Path, rng: np.random.Generator) -> None:
    table = saved(rng, [0, 1, 2] * 4)
    table.save_to_disk(str(tmp_path / "plain"))
    table.with_format("numpy", columns=["n"]).save_to_disk(str(tmp_path / "numpy"))
    one, two = (open_data(tmp_path / name, split="all") for name in ("plain", "numpy"))
    assert torch.equal(one.read(0, 12), two.read(0, 12))
    assert one.fingerprint == two.fingerprint


def test_columns_are_found_or_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    images, labels = [square(rng) for _ in range(9)], [0, 1, 2] * 3
    classes = datasets.ClassLabel(names=["a", "b", "c"])
    accepted = [
        {"image": None, "photo": datasets.Image()},
        {"mask": datasets.Image()},
        {"label": None, "kind": classes},
        {"label": classes, "other": datasets.ClassLabel(num_classes=3)},
    ]
    for number, changes in enumerate(accepted):
        make(images, labels, **changes).save_to_disk(str(tmp_path / f"{number}"))
        assert len(open_data(tmp_path / f"{number}", split="all")) == 9
    refused = [
        ({"image": None}, "of which none have the feature Image"),
        ({"image": None, "a": datasets.Image(), "b": datasets.Image()}, "a, b have the feature"),
        ({"label": None}, "of which none have the feature ClassLabel"),
        ({"label": None, "x": classes, "y": classes}, "x, y have the feature ClassLabel"),
        ({"label": datasets.Value("float32")}, "label holds float.*accepted: integers"),
    ]
    for number, (changes, message) in enumerate(refused, start=10):
        make(images, labels, **changes).save_to_disk(str(tmp_path / f"{number}"))
        with pytest.raises(ValueError, match=f"{number} cannot be used.*{message}"):
            load_data(tmp_path / f"{number}")


def test_labels_that_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    images = [square(rng) for _ in range(7)]
    for number, wrong in enumerate((-1, None)):
        labels = [0, 0, 0, wrong, 0, 0, 0]
        make(images, labels).save_to_disk(str(tmp_path / f"{number}"))
        with pytest.raises(ValueError, match=f"row 3 has the label {wrong}; accepted: 0 to"):
            load_data(tmp_path / f"{number}")
    make([], []).save_to_disk(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="none cannot be used as a saved data set"):
        load_data(tmp_path / "none")
    make(images, [0, 0, 0, 0, 0, 1, 1]).save_to_disk(str(tmp_path / "few"))
    with pytest.raises(ValueError, match="class '1' has 2 images"):
        load_data(tmp_path / "few")


def test_unreadable_rows_are_named(tmp_path: Path, rng: np.random.Generator) -> None:
    whole = encoded(square(rng))
    cells = [{"bytes": whole, "path": None} for _ in range(12)]
    cells[3] = {"bytes": whole[:50], "path": None}
    cells[5] = None
    cells[7] = {"bytes": None, "path": "https://example.org/a.png"}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    table = datasets.Dataset.from_dict({"image": cells, "label": [0] * 12}, features=features)
    root = tmp_path / "set"
    table.select(range(3)).save_to_disk(str(root))
    # save_to_disk would fetch the address; older releases wrote it without the image, as here.
    with ArrowWriter(features=features, path=str(next(root.glob("*.arrow")))) as writer:
        writer.write_table(table.data.table)
        writer.finalize()
    source = open_data(root, split="all")
    bad = []
    for position in range(12):
        try:
            source.read(position, position + 1)
        except ValueError as error:
            assert "set, row " in str(error)  # noqa: PT017
            bad.append(int(str(error).partition("row ")[2].split()[0]))
    assert sorted(bad) == [3, 5, 7]


def test_damaged_folders(tmp_path: Path, rng: np.random.Generator) -> None:
    whole = tmp_path / "whole"
    saved(rng, [0, 1, 2] * 3).save_to_disk(str(whole))
    arrow = next(whole.glob("*.arrow")).name
    changes = {
        "state.json": b"{",
        "dataset_info.json": b'{"features": 3}',
        arrow: (whole / arrow).read_bytes()[:3000],
    }
    for number, (name, content) in enumerate(changes.items()):
        root = shutil.copytree(whole, tmp_path / f"{number}")
        (root / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{number} cannot be used as a saved data set"):
            load_data(root)
        (root / name).unlink()
        if name != "state.json":
            with pytest.raises(ValueError, match=f"{number} cannot be used as a saved data set"):
                load_data(root)


def test_fingerprints(tmp_path: Path, rng: np.random.Generator) -> None:
    images = [square(rng) for _ in range(8)]
    made = iter(range(100))

    def fingerprint(images: list[np.ndarray], labels: list[int], **options: int) -> str:
        root = tmp_path / f"{next(made)}"
        make(images, labels).save_to_disk(str(root))
        return open_data(root, split="all", **options).fingerprint

    first = fingerprint(images, [0, 1] * 4)
    assert fingerprint(images, [0, 1] * 4) == first
    assert fingerprint(images, [1, 0] * 4) != first
    assert fingerprint(images, [0, 1] * 4, image_size=9) != first
    assert fingerprint([*images[:7], images[7][:9]], [0, 1] * 4) != first


def test_without_the_library(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps({}))
    code = (
        "import sys; sys.modules['datasets'] = None\n"
        "from sign_ext.data import load_data\n"
        f"load_data({str(tmp_path)!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in done.stderr
    assert "not installed: pip install datasets" in done.stderr
