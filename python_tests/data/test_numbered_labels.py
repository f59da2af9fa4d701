"""Labels without names: from 1, with gaps, or far too large are early errors, others are not."""

from __future__ import annotations

import importlib.util
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from data_on_disk import encoded, saved, write_tar

from sign_ext import SignTransform
from sign_ext.data import ImageSet, load_data, open_data
from sign_ext.store import save_transformed

HUGGING_FACE = importlib.util.find_spec("datasets") is not None
needs_datasets = pytest.mark.skipif(not HUGGING_FACE, reason="datasets is not installed")

WRONG = [
    ([1, 2, 3], "labels from 1 to 3 and no image with label 0.*Subtract 1"),
    ([5, 6], "labels from 5 to 6.*Subtract 5"),
    ([0, 999_999], "2 different labels, from 0 to 999,999.*accepted: labels 0 to 1"),
    ([0, 1, 7], "3 different labels.*8 classes.*Renumber"),
    ([999_999], "labels from 999,999 to 999,999"),
]
RIGHT = [([0, 1, 2], 3), ([0, 2], 3), ([0, 1, 3], 4), ([0], 1)]


def write_labels(root: Path, labels: list[int], rng: np.random.Generator) -> Path:
    members = []
    for number, label in enumerate(labels * 4):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        members += [(f"{number}.png", encoded(pixels)), (f"{number}.cls", b"%d" % label)]
    return write_tar(root / "a.tar", members)


def write_table(root: Path, labels: list[int], rng: np.random.Generator) -> Path:
    from datasets import Value

    table = saved(rng, [0] * 4 * len(labels)).remove_columns("label")
    table = table.add_column("label", labels * 4).cast_column("label", Value("int64"))
    table.save_to_disk(str(root / "hf"))
    return root / "hf"


WRITERS = [write_labels, pytest.param(write_table, marks=needs_datasets)]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(("labels", "said"), WRONG)
def test_labels_that_are_taken_for_mistakes(write, labels, said, tmp_path, rng):
    path = write(tmp_path, labels, rng)
    with pytest.raises(ValueError, match="(?s)" + said) as caught:
        open_data(path)
    assert str(path.parent if path.suffix == ".tar" else path) in str(caught.value)
    assert ("classes.txt" if path.suffix == ".tar" else "ClassLabel") in str(caught.value)


def test_a_large_label_takes_no_memory(tmp_path, rng):
    path = write_labels(tmp_path, [0, 999_999], rng)
    tracemalloc.start()
    with pytest.raises(ValueError, match="999,999"):
        load_data(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(("labels", "classes"), RIGHT)
def test_labels_that_are_used(write, labels, classes, tmp_path, rng):
    source = open_data(write(tmp_path, labels, rng), split="all")
    assert source.class_names == tuple(str(label) for label in range(classes))
    assert sorted(source.labels.tolist()) == sorted(labels * 4)


def test_names_say_which_classes_there_are(tmp_path, rng):
    path = write_labels(tmp_path, [1, 2, 9], rng)
    names = [f"kind {label}" for label in range(12)]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    assert open_data(path).class_names == tuple(names)
    path = write_labels(tmp_path / "one", [1, 2, 3], rng)
    (tmp_path / "one/classes.txt").write_text("ant\nbee\ncat")
    with pytest.raises(ValueError, match=r"3 lines, and the labels begin at 1.*Subtract 1"):
        open_data(path)


def test_labels_from_1_in_python(rng):
    pixels = torch.from_numpy(rng.integers(0, 256, (6, 3, 8, 8), dtype=np.uint8))
    labels = torch.arange(6) % 3 + 1
    with pytest.raises(ValueError, match=r"1 to 3; accepted: 0 to 2.*Subtract 1"):
        ImageSet(pixels, labels, ("a", "b", "c"), "x")
    with pytest.raises(ValueError, match=r"1 to 3; accepted: 0 to 2.*Subtract 1"):
        save_transformed(
            "nowhere", {1: pixels.float()}, labels, recipe={}, class_names=("a", "b", "c")
        )
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5), torch.nn.Linear(5, 3))
    with pytest.raises(ValueError, match=r"1 to 3, and the network has 3 outputs.*subtract 1"):
        SignTransform(model).calibrate(pixels.float(), labels, steps=1, step_sizes=[1.0])
