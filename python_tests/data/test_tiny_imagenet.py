"""Tiny ImageNet: all formats give the same images with CIFAR-10's labels; damage is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sample_tiny_imagenet import (
    NUMBERS,
    SYNSETS,
    Picture,
    jpeg,
    pack,
    pictures,
    write_folder,
    write_parquet,
)
from tiny_isic2017 import change_column, column

from sign_ext.data import ImageSet, load_ood
from sign_ext.data.datasets import cifar10, tiny_imagenet
from sign_ext.data.decode import resize_images

PAPER = {
    *("n04285008", "n01855672", "n02002724", "n02058221", "n02123045"),
    *SYNSETS["dog"],
    *SYNSETS["frog"],
}


@pytest.fixture
def found(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> list[Picture]:
    """Two validation and three training images a synset, with the loader expecting that."""
    monkeypatch.setattr(tiny_imagenet, "IMAGES", {"train": 3, "val": 2})
    # One of the birds chosen is grey.
    counts = {"automobile": 2, "bird": 5, "cat": 2, "dog": 12, "frog": 4}
    monkeypatch.setattr(tiny_imagenet, "PAPER_COUNTS", counts)
    return pictures(rng)


def check(images: ImageSet, found: list[Picture], *, synsets: str) -> None:
    """Colour images of the right classes, once each, under CIFAR-10's labels, as 2×2 means."""
    expected = {}
    for each in found:
        chosen = each.split == "val" and each.wnid in PAPER if synsets == "paper" else True
        if chosen and not each.grey and each.class_name in NUMBERS:
            means = each.pixels().reshape(32, 2, 32, 2, 3).mean((1, 3))
            key = np.rint(means).astype(np.uint8).transpose(2, 0, 1).tobytes()
            expected[key] = NUMBERS[each.class_name]
    assert len(expected) == (25 if synsets == "paper" else 20 * 5 - 3)
    labels = images.labels.tolist()
    assert {
        image.tobytes(): label for image, label in zip(images.images.numpy(), labels, strict=True)
    } == expected
    assert len(labels) == len(expected)
    assert labels == sorted(labels)
    assert images.class_names == cifar10.CLASS_NAMES
    assert images.name == f"tiny_imagenet/{synsets}"


@pytest.mark.parametrize("synsets", ["paper", "all"])
def test_all_formats(found: list[Picture], tmp_path: Path, synsets: str) -> None:
    base = write_folder(tmp_path / "folder", found)
    for name in ("archive", "parquet"):
        (tmp_path / name).mkdir()
    pack(base, tmp_path / "archive" / "tiny-imagenet-200.zip")
    write_parquet(tmp_path / "parquet", found)
    roots = [base.parent, base, tmp_path / "archive", tmp_path / "parquet"]
    first, *others = (load_ood("tiny_imagenet", root, synsets=synsets) for root in roots)
    check(first, found, synsets=synsets)
    for other in others:
        assert (other.images == first.images).all()
        assert (other.labels == first.labels).all()


def test_the_map_names_each_synset_once() -> None:
    assert {name: [*wnids] for name, wnids in tiny_imagenet.CLASS_SYNSETS.items()} == {
        name: wnids for name, wnids in SYNSETS.items() if name in NUMBERS
    }
    for name, wnids in tiny_imagenet.PAPER_SYNSETS.items():
        assert set(wnids) <= set(tiny_imagenet.CLASS_SYNSETS[name])
    # The paper, Section 3.3: 49, 146, 50, 298 and 100 images.
    assert list(tiny_imagenet.PAPER_COUNTS.values()) == [49, 146, 50, 298, 100]
    for name, wnids in tiny_imagenet.PAPER_SYNSETS.items():
        # 50 validation images each, of which at most four are greyscale.
        assert 0 <= 50 * len(wnids) - tiny_imagenet.PAPER_COUNTS[name] <= 4


def test_other_sizes(found: list[Picture], tmp_path: Path) -> None:
    write_parquet(tmp_path, found)
    whole = load_ood("tiny_imagenet", tmp_path, image_size=64)
    pixels = {each.pixels().astype(np.uint8).transpose(2, 0, 1).tobytes() for each in found}
    assert {image.tobytes() for image in whole.images.numpy()} <= pixels
    larger = load_ood("tiny_imagenet", tmp_path, image_size=75)
    assert (larger.images == resize_images(whole.images, 75)).all()
    with pytest.raises(ValueError, match=r"image_size=0; accepted"):
        load_ood("tiny_imagenet", tmp_path, image_size=0)


def test_the_paper_needs_the_validation_images_only(found: list[Picture], tmp_path: Path) -> None:
    base = write_folder(tmp_path, found)
    (base / "train").rename(tmp_path / "away")
    check(load_ood("tiny_imagenet", tmp_path), found, synsets="paper")
    with pytest.raises(ValueError, match="has 0 images of n02814533 in train; accepted: 3"):
        load_ood("tiny_imagenet", tmp_path, synsets="all")


def test_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError) as caught:
            load_ood("tiny_imagenet", root)
        for accepted in (
            "tiny-imagenet-200/",
            "tiny-imagenet-200.zip",
            "tiny_imagenet_20_classes.parquet",
            "--data-root",
            str(root),
        ):
            assert accepted in str(caught.value)
    monkeypatch.delenv("SIGN_EXT_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"root is not given .* not set; accepted for tiny"):
        load_ood("tiny_imagenet")


def replace(text: str, line: int, old: str, new: str) -> str:
    lines = text.splitlines(keepends=True)
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new)
    return "".join(lines)


def test_damaged_annotations(found: list[Picture], tmp_path: Path) -> None:
    base = write_folder(tmp_path, found)
    table = base / "val" / "val_annotations.txt"
    text = table.read_text()
    lines = text.splitlines(keepends=True)
    first = lines[0].split("\t")[0]
    for changed, message in (
        (replace(text, 4, "\t62", ""), r"line 4 is .*; accepted: file, synset"),
        (replace(text, 4, "\tn", "\tm"), r"line 4 is .*; accepted: file, synset"),
        ("".join([*lines[:6], lines[0], *lines[6:]]), rf"line 7: {first} is already on line 1"),
        (text + "val_999.JPEG\tn01641577\t0\t1\t2\t3\n", rf"line {len(lines) + 1}: .*no val_999"),
        (text[:-8], rf"line {len(lines)} is "),
    ):
        table.write_text(changed)
        with pytest.raises(ValueError, match=rf"val_annotations\.txt, {message}"):
            load_ood("tiny_imagenet", tmp_path)
    table.write_text("".join(lines[1:]))
    with pytest.raises(ValueError, match=rf"{first} has no line in .*val_annotations\.txt"):
        load_ood("tiny_imagenet", tmp_path)
    table.write_text(text.replace("n02123045", "n07747607", 1))
    with pytest.raises(ValueError, match="has 1 image of n02123045 in val; accepted: 2"):
        load_ood("tiny_imagenet", tmp_path)
    table.unlink()
    with pytest.raises(FileNotFoundError, match=r"val_annotations\.txt is missing"):
        load_ood("tiny_imagenet", tmp_path)
    pack(base, tmp_path / "tiny-imagenet-200.zip")
    base.rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError, match=r"val_annotations\.txt is missing"):
        load_ood("tiny_imagenet", tmp_path)


def test_damaged_images_are_named(found: list[Picture], tmp_path: Path) -> None:
    base = write_folder(tmp_path, found)
    file = base / "train" / "n02056570" / "images" / "n02056570_1.JPEG"
    whole = file.read_bytes()
    small = jpeg(np.zeros((64, 63, 3), dtype=np.uint8))
    for data, message in (
        (whole[:-500], "truncated"),
        (b"", "cannot identify"),
        (b"no image", "cannot identify"),
        (small, "it is 63×64 pixels, not 64×64"),
    ):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=rf"n02056570_1\.JPEG: .*{message}"):
            load_ood("tiny_imagenet", tmp_path, synsets="all")
    file.write_bytes(whole)
    stray = file.with_name("n02058221_1.JPEG")
    file.rename(stray)
    with pytest.raises(ValueError, match=rf"{stray.name} is in the folder of n02056570"):
        load_ood("tiny_imagenet", tmp_path, synsets="all")
    stray.unlink()
    with pytest.raises(ValueError, match="has 2 images of n02056570 in train; accepted: 3"):
        load_ood("tiny_imagenet", tmp_path, synsets="all")


def test_other_greyscale_images(found: list[Picture], tmp_path: Path, rng) -> None:
    victim = next(each for each in found if each.split == "val" and each.wnid == "n02123045")
    victim.data = jpeg(rng.integers(0, 256, (64, 64), dtype=np.uint8))
    write_parquet(tmp_path, found)
    with pytest.raises(ValueError, match=r"'cat': 1.* colour images; accepted: .*'cat': 2"):
        load_ood("tiny_imagenet", tmp_path)


def test_damaged_archives(found: list[Picture], tmp_path: Path) -> None:
    base = write_folder(tmp_path / "elsewhere", found)
    archive = pack(base, tmp_path / "tiny-imagenet-200.zip")
    whole = archive.read_bytes()
    victim = next(each for each in found if each.split == "val" and each.wnid in PAPER)
    # Noise hardly compresses, so some of the member's bytes lie in the archive as they are.
    where = whole.index(f"images/{victim.file}".encode()) + 900
    flipped = whole[:where] + bytes([whole[where] ^ 255]) + whole[where + 1 :]
    for data in (whole[:-1000], whole[: len(whole) // 2], b"", b"none", flipped):
        archive.write_bytes(data)
        with pytest.raises(ValueError, match=r"tiny-imagenet-200\.zip cannot be unpacked: "):
            load_ood("tiny_imagenet", tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("wnid", lambda old: None, "it has no column 'wnid'"),
        ("split", lambda old: [*old[:4], "test", *old[5:]], "row 4: split is 'test'; accepted"),
        ("split", lambda old: [*old[:4], None, *old[5:]], "1 empty cells"),
        (
            "cifar10_class",
            lambda old: ["truck", *old[1:]],
            "row 0: cifar10_class of n02814533 is 'truck'; accepted: 'automobile'",
        ),
        ("wnid", lambda old: ["n07747607", *old[1:]], "has 2 images of n02814533 in train"),
        ("image", lambda old: [old[0][:-500], *old[1:]], "row 0: .*truncated"),
        ("image", lambda old: [*old[:30], None, *old[31:]], "row 30: its image is None"),
    ],
)
def test_damaged_parquet(found: list[Picture], tmp_path: Path, name, change, message: str) -> None:
    file = write_parquet(tmp_path, found)
    change_column(file, name, change(column(file, name)))
    with pytest.raises(ValueError, match=rf"tiny_imagenet_20_classes\.parquet.*{message}"):
        load_ood("tiny_imagenet", tmp_path, synsets="all")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"20_classes\.parquet cannot be used as Tiny ImageNet"):
        load_ood("tiny_imagenet", tmp_path)
