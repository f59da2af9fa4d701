"""Splits that are read on demand against the same data read whole, and their fingerprints."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from data_on_disk import MAKERS
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_cifar10 import TinyCifar
from tiny_isic2017 import COUNTS, TinyIsic

from sign_ext.data import ImageSource, Splits, load_data, open_data
from sign_ext.data.datasets import isic2017

SPLITS = ("train", "validation", "test")


def same_as_loaded(name: str | Path, root: Path | None = None, **sizes: int | None) -> Splits:
    """Compare every split of an opened data set with the loaded one."""
    splits = load_data(name, root, **sizes)
    whole = [splits.train, splits.validation, splits.test]
    opened = [open_data(name, root, split=split, **sizes) for split in SPLITS]
    for source, loaded in zip(opened, whole, strict=True):
        assert torch.equal(source.read(0, len(source)), loaded.images)
        assert source.labels.dtype == np.int64
        assert source.labels.tolist() == loaded.labels.tolist()
        assert source.class_names == loaded.class_names
        assert source.image_shape == splits.image_shape
        assert (source.name, source.note) == (loaded.name, splits.note)
        held = source.read_all()
        assert torch.equal(held.images, loaded.images)
        assert torch.equal(held.labels, loaded.labels)
    every = open_data(name, root, split="all", **sizes)
    assert torch.equal(every.read(0, len(every)), torch.cat([each.images for each in whole]))
    assert every.labels.tolist() == torch.cat([each.labels for each in whole]).tolist()
    assert every.keys(0, len(every)) == [
        key for source in opened for key in source.keys(0, len(source))
    ]
    assert len(set(every.keys(0, len(every)))) == len(every)
    return splits


@pytest.fixture(params=sorted(MAKERS))
def path(request: pytest.FixtureRequest, tmp_path: Path, rng: np.random.Generator) -> Path:
    """Each format on disk, with images of odd sizes."""
    return MAKERS[request.param](tmp_path, rng)


@pytest.fixture
def isic(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> TinyIsic:
    counts = {part: (images, positive) for part, (images, positive, _) in COUNTS.items()}
    monkeypatch.setattr(isic2017, "COUNTS", counts)
    return TinyIsic.random(rng)


@pytest.mark.parametrize("name", ["digits", "digits_imbalanced"])
@pytest.mark.parametrize("sizes", [{}, {"train_size": 37, "test_size": 21, "image_size": 13}])
def test_digits(name: str, sizes: dict[str, int], seed: int) -> None:
    same_as_loaded(name, seed=seed, **sizes)


@pytest.mark.parametrize("sizes", [{}, {"train_size": 33, "test_size": 7, "image_size": 19}])
def test_cifar10(tmp_path: Path, tiny: TinyCifar, trust, seed: int, sizes: dict[str, int]) -> None:
    tiny.write_binary(tmp_path / "b" / "cifar-10-batches-bin")
    trust(tiny.write_python(tmp_path / "p" / "cifar-10-batches-py"))
    (tmp_path / "q").mkdir()
    tiny.write_parquet(tmp_path / "q")
    prints = []
    for name in "bpq":
        same_as_loaded("cifar10", tmp_path / name, seed=seed, **sizes)
        prints.append(open_data("cifar10", tmp_path / name, seed=seed, **sizes).fingerprint)
    # Both original formats hold the same pixels; the Parquet file holds other bytes.
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("sizes", [{"image_size": 31}, {"train_size": 11, "test_size": 5}])
def test_isic2017(tmp_path: Path, isic: TinyIsic, seed: int, sizes: dict[str, int]) -> None:
    (tmp_path / "q").mkdir()
    isic.write_parquet(tmp_path / "q")
    for root in (isic.write_official(tmp_path / "o"), tmp_path / "q"):
        same_as_loaded("isic2017", root, seed=seed, **sizes)
    ids = [lesion.image_id for lesion in isic.parts["validation"]]
    found = open_data("isic2017", tmp_path / "q", split="validation").keys(0, len(ids))
    assert found == [f"{each}.jpg" for each in ids]


@pytest.mark.parametrize("sizes", [{}, {"train_size": 11, "test_size": 3, "image_size": 21}])
def test_files(path: Path, seed: int, sizes: dict[str, int]) -> None:
    same_as_loaded(path, seed=seed, **sizes)
    assert open_data(path).resident_bytes == 0


@given(data=st.data())
@settings(max_examples=25)
def test_any_partition_reads_the_whole(data: st.DataObject, everything: list[ImageSource]) -> None:
    source = data.draw(st.sampled_from(everything))
    total = len(source)
    cuts = sorted(data.draw(st.lists(st.integers(0, total), max_size=9)))
    spans = list(zip([0, *cuts], [*cuts, total], strict=True))
    pieces = [source.read(start, stop) for start, stop in spans]
    assert [len(piece) for piece in pieces] == [stop - start for start, stop in spans]
    assert torch.equal(torch.cat(pieces), source.read(0, total))
    assert [key for span in spans for key in source.keys(*span)] == source.keys(0, total)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> list[ImageSource]:
    """All three splits, joined, of the digits and of each format on disk."""
    random = np.random.default_rng(20)
    paths = [make(tmp_path_factory.mktemp(name), random) for name, make in MAKERS.items()]
    small = open_data("digits", split="all", train_size=23, test_size=11, image_size=15)
    return [small, *(open_data(path, split="all", image_size=17) for path in paths)]


def test_four_threads_read_what_one_does(path: Path, tiny: TinyCifar, tmp_path: Path) -> None:
    tiny.write_parquet(tmp_path)
    for source in (open_data(path, split="all"), open_data("cifar10", tmp_path, split="all")):
        spans = [(start, min(start + 3, len(source))) for start in range(0, len(source), 3)]
        serial = [source.read(*span) for span in spans]
        with ThreadPoolExecutor(4) as pool:
            # Three rounds, so that the threads request the same row groups in different orders.
            for step in (1, -1, 1):
                found = pool.map(source.read, *zip(*spans[::step], strict=True))
                for piece, expected in zip(found, serial[::step], strict=True):
                    assert torch.equal(piece, expected)


def test_positions_out_of_range(path: Path) -> None:
    source = open_data(path)
    total = len(source)
    assert source.read(total, total).shape == (0, 3, 32, 32)
    assert source.keys(1, 1) == []
    for span in ((-1, 1), (2, 1), (0, total + 1)):
        for method in (source.read, source.keys):
            with pytest.raises(IndexError, match=f"start={span[0]}, stop={span[1]}.*accepted"):
                method(*span)


def test_unknown_splits() -> None:
    with pytest.raises(ValueError, match=r"split='val'; accepted: train, validation, test, all"):
        open_data("digits", split="val")


def test_keys_do_not_depend_on_the_subset(seed: int) -> None:
    whole, some = open_data("digits"), open_data("digits", train_size=31, seed=seed)
    keys = some.keys(0, 31)
    assert keys != [f"digits/train/{i}" for i in range(31)]
    for i, key in enumerate(keys):
        number = int(key.removeprefix("digits/train/"))
        assert torch.equal(some.read(i, i + 1), whole.read(number, number + 1))


def test_resident_bytes(tmp_path: Path, tiny: TinyCifar) -> None:
    tiny.write_binary(tmp_path / "cifar-10-batches-bin")
    # Training and validation images are in one array, the test images in another.
    sizes = {split: open_data("cifar10", tmp_path, split=split).resident_bytes for split in SPLITS}
    assert sizes == {"train": 100 * 3072, "validation": 100 * 3072, "test": 20 * 3072}
    assert open_data("cifar10", tmp_path, split="all").resident_bytes == 120 * 3072
    assert open_data("digits").resident_bytes == 1797 * 64 * 4


@pytest.fixture
def zoo(tmp_path: Path, rng: np.random.Generator) -> Path:
    return MAKERS["folder"](tmp_path, rng)


def test_a_folders_fingerprint(zoo: Path, tmp_path: Path) -> None:
    seen = {open_data(zoo, split="all").fingerprint}

    def changed() -> bool:
        before = len(seen)
        seen.add(open_data(zoo, split="all").fingerprint)
        return len(seen) > before

    assert not changed()
    moved = shutil.copytree(zoo, tmp_path / "elsewhere" / "other name")
    assert open_data(moved, split="all").fingerprint in seen
    assert open_data(zoo, split="all", image_size=33).fingerprint not in seen
    assert open_data(zoo, split="train").fingerprint not in seen
    first = sorted((zoo / "ant").iterdir())[0]
    first.rename(first.with_name("renamed.png"))
    assert changed()
    with Image.open(first.with_name("renamed.png")) as image:
        image.resize((5, 4)).save(first.with_name("renamed.png"))
    assert changed()
    (zoo / "bee").rename(zoo / "bug")
    assert changed()
    shutil.move(zoo / "cat" / sorted(os.listdir(zoo / "cat"))[0], zoo / "bug" / "a cat.png")
    assert changed()


def test_fingerprints_of_labels_alone(tmp_path: Path, tiny: TinyCifar) -> None:
    one = open_data("cifar10", tiny.write_binary(tmp_path / "cifar-10-batches-bin"), split="test")
    # Two images of the test split swap their labels; keys and pixels stay the same.
    first, second = 0, int(np.flatnonzero(tiny.test_labels != tiny.test_labels[0])[0])
    tiny.test_labels[[first, second]] = tiny.test_labels[[second, first]]
    other = open_data("cifar10", tiny.write_binary(tmp_path / "cifar-10-batches-bin"), split="test")
    assert torch.equal(one.read(0, 20), other.read(0, 20))
    assert one.fingerprint != other.fingerprint
    assert len(one.fingerprint) == 64
    assert int(one.fingerprint, 16) >= 0


def test_unreadable_images_are_found_one_by_one(zoo: Path) -> None:
    source = open_data(zoo, split="train")
    paths = [zoo / key for key in source.keys(0, len(source))]
    whole = [source.read(i, i + 1) for i in range(len(source))]
    paths[2].unlink()
    paths[5].write_bytes(paths[5].read_bytes()[:40])
    paths[7].write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        source.read(0, len(source))
    for i, expected in enumerate(whole):
        if i in (2, 5, 7):
            with pytest.raises(ValueError, match=paths[i].name):
                source.read(i, i + 1)
        else:
            assert torch.equal(source.read(i, i + 1), expected)
