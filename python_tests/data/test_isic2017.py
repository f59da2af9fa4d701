"""ISIC-2017: both formats give the same images and labels, and errors name the damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_isic2017 import COUNTS, TinyIsic, change_column, column

from sign_ext.data import Splits, load_data
from sign_ext.data import decode as decoding
from sign_ext.data.datasets import isic2017


@pytest.fixture
def isic(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> TinyIsic:
    """A tiny ISIC-2017, with the loader expecting its counts."""
    counts = {part: (images, melanomas) for part, (images, melanomas, _) in COUNTS.items()}
    monkeypatch.setattr(isic2017, "COUNTS", counts)
    return TinyIsic.random(rng)


def check(splits: Splits, isic: TinyIsic, size: int) -> None:
    """Every photograph under its label, in the order of the names."""
    for part, lesions in isic.parts.items():
        found = getattr(splits, part)
        assert found.images.shape == (len(lesions), 3, size, size)
        assert found.labels.tolist() == [lesion.melanoma for lesion in lesions]
        expected = np.array([lesion.colour for lesion in lesions])[:, :, None, None]
        assert np.abs(found.images.numpy() - expected).max() <= 2
        assert found.name == f"isic2017/{part}"
    assert splits.class_names == ("benign", "melanoma")
    assert splits.name == "isic2017"


def test_published_counts() -> None:
    # Codella et al., arXiv:1710.05006, Table 1; the paper, Section 3: 374 of 2,000.
    assert isic2017.COUNTS == {"train": (2000, 374), "validation": (150, 30), "test": (600, 117)}


def test_official_files(isic: TinyIsic, tmp_path: Path) -> None:
    splits = load_data("isic2017", isic.write_official(tmp_path), image_size=45)
    check(splits, isic, 45)
    assert splits.note == (
        "ISIC-2017 part 3, melanoma or not (original files, resized to 45×45; the aspect ratio is "
        "not kept)"
    )


def test_parquet(isic: TinyIsic, tmp_path: Path) -> None:
    isic.write_parquet(tmp_path)
    splits = load_data("isic2017", tmp_path, image_size=45)
    check(splits, isic, 45)
    assert splits.note == (
        "ISIC-2017 part 3, melanoma or not (images reduced to 256×256 beforehand, resized to "
        "45×45; the aspect ratio is not kept)"
    )


def test_the_default_is_the_networks_own_size(isic: TinyIsic, tmp_path: Path) -> None:
    isic.write_parquet(tmp_path)
    splits = load_data("isic2017", tmp_path)
    check(splits, isic, 299)
    # The official format comes first where both are there.
    both = load_data("isic2017", isic.write_official(tmp_path))
    assert "original files, resized to 299×299" in both.note
    check(both, isic, 299)


def test_subsets_keep_the_proportions(isic: TinyIsic, tmp_path: Path, monkeypatch) -> None:
    decoded: list[int] = []
    decode = decoding.decode_rgb
    monkeypatch.setattr(
        decoding, "decode_rgb", lambda *a, **k: decoded.append(1) or decode(*a, **k)
    )
    isic.write_parquet(tmp_path)
    sizes = {"train_size": 8, "test_size": 7, "seed": 3, "image_size": 9}
    one = load_data("isic2017", tmp_path, **sizes)
    assert len(decoded) == 8 + 5 + 7
    assert [one.train.labels.sum(), one.validation.labels.sum(), one.test.labels.sum()] == [2, 1, 2]
    # Both formats give the same subsets.
    two = load_data("isic2017", isic.write_official(tmp_path), **sizes)
    assert len(decoded) == 2 * (8 + 5 + 7)
    for part in ("train", "validation", "test"):
        first, second = getattr(one, part), getattr(two, part)
        assert first.labels.tolist() == second.labels.tolist()
        assert (first.float() - second.float()).abs().max() <= 2


def test_missing_files(isic: TinyIsic, tmp_path: Path, monkeypatch) -> None:
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError) as caught:
            load_data("isic2017", root)
        for accepted in (
            "ISIC-2017_Test_v2_Data",
            "ISIC-2017_Training_Part3_GroundTruth.csv",
            "isic2017_256.parquet",
            "--data-root",
            "SIGN_EXT_DATA",
            str(root),
        ):
            assert accepted in str(caught.value)
    monkeypatch.delenv("SIGN_EXT_DATA", raising=False)
    with pytest.raises(
        FileNotFoundError, match=r"root is not given .* not set; accepted for isic2017"
    ):
        load_data("isic2017")
    root = isic.write_official(tmp_path / "isic")
    monkeypatch.setenv("SIGN_EXT_DATA", str(root))
    assert len(load_data("isic2017", image_size=5).train) == 20
    isic.table(root, "test").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"Test_v2_Part3_GroundTruth\.csv is missing, although"
    ):
        load_data("isic2017")
    (root / "ISIC-2017_Validation_Data").rename(root / "away")
    with pytest.raises(FileNotFoundError, match="Validation_Data is missing, although"):
        load_data("isic2017")


def edited(change: Callable[[list[str]], object]) -> Callable[[str], str]:
    """A change to the lines of a table, the header being the first."""

    def edit(text: str) -> str:
        lines = text.splitlines()
        change(lines)
        return "\n".join(lines) + "\n"

    return edit


def put(line: int, old: str, new: str) -> Callable[[list[str]], None]:
    def change(lines: list[str]) -> None:
        assert old in lines[line - 1]
        lines[line - 1] = lines[line - 1].replace(old, new, 1)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(1, "melanoma", "Melanoma"), r"line 1: its columns are .*'Melanoma'.*; accepted"),
        (put(1, ",seborrheic_keratosis", ""), r"line 1: its columns are"),
        (put(4, ".0,", ",0,"), r"line 4: it has 4 cells; accepted: 3"),
        (put(4, ".0,0.0", ""), r"line 4: it has 2 cells"),
        (put(3, "0.0", "2.0"), r"line 3: \w+ of ISIC_\d+ is '2.0'; accepted: 0.0 or 1.0"),
        (put(3, "0.0", ""), r"line 3: \w+ of ISIC_\d+ is ''"),
        (put(5, "ISIC_", "../ISIC_"), r"line 5: image_id is '../ISIC_"),
        (lambda lines: lines.insert(5, lines[2]), r"line 6: ISIC_\d+ is already on line 3"),
        (lambda lines: lines.insert(4, ""), r"line 5: it has 0 cells"),
        (lambda lines: lines.clear(), r"line 1: its columns are"),
    ],
)
def test_tables_that_are_not_as_published(isic: TinyIsic, tmp_path, change, message: str) -> None:
    # The changes below need two rows that are neither melanoma nor keratosis.
    for lesion in isic.parts["train"][1:3]:
        lesion.melanoma = lesion.keratosis = 0
    table = isic.table(isic.write_official(tmp_path), "train")
    table.write_text(edited(change)(table.read_text()))
    with pytest.raises(ValueError, match=rf"ISIC-2017_Training_Part3_GroundTruth\.csv, {message}"):
        load_data("isic2017", tmp_path, image_size=5)


def test_melanoma_and_keratosis_at_once(isic: TinyIsic, tmp_path: Path) -> None:
    lesion = isic.parts["test"][4]
    lesion.melanoma = lesion.keratosis = 1
    isic.write_official(tmp_path)
    with pytest.raises(ValueError, match=rf"Test_v2.*line 6: {lesion.image_id} has melanoma 1 and"):
        load_data("isic2017", tmp_path)
    (tmp_path / "p").mkdir()
    isic.write_parquet(tmp_path / "p")
    with pytest.raises(ValueError, match=rf"256\.parquet .*row 29: {lesion.image_id} has melanoma"):
        load_data("isic2017", tmp_path / "p")


def test_tables_that_are_not_text(isic: TinyIsic, tmp_path: Path) -> None:
    table = isic.table(isic.write_official(tmp_path), "validation")
    table.write_bytes(table.read_bytes()[:60] + b"\xff\x00")
    with pytest.raises(ValueError, match=r"Validation_Part3_GroundTruth\.csv, line \d: "):
        load_data("isic2017", tmp_path)


def test_images_without_row_and_rows_without_image(isic: TinyIsic, tmp_path: Path) -> None:
    isic.write_official(tmp_path)
    table, image = isic.table(tmp_path, "train"), isic.image(tmp_path, "train", 6)
    text = table.read_text()
    table.write_text(edited(lambda lines: lines.pop(7))(text))
    with pytest.raises(ValueError, match=rf"{image.name} has no row in .*Training_Part3.*csv"):
        load_data("isic2017", tmp_path)
    table.write_text(text)
    image.rename(image.with_name(f"{image.stem}_again.jpg"))
    message = (
        rf"Training_Part3_GroundTruth\.csv, line 8: ISIC-2017_Training_Data holds no {image.name}"
    )
    with pytest.raises(ValueError, match=message):
        load_data("isic2017", tmp_path)


def test_counts_other_than_the_published_ones(isic: TinyIsic, tmp_path: Path) -> None:
    benign = next(each for each in isic.parts["train"] if not each.melanoma + each.keratosis)
    benign.melanoma = 1
    isic.write_official(tmp_path)
    message = "the train split has 20 images, 6 of them melanoma; accepted: 20 and 5"
    with pytest.raises(ValueError, match=rf"Training_Part3_GroundTruth\.csv is not as .*{message}"):
        load_data("isic2017", tmp_path)
    (tmp_path / "p").mkdir()
    isic.write_parquet(tmp_path / "p")
    with pytest.raises(ValueError, match=rf"256\.parquet cannot be used as ISIC-2017.*{message}"):
        load_data("isic2017", tmp_path / "p")
    benign.melanoma = 0
    isic.parts["train"].remove(benign)
    (tmp_path / "few").mkdir()
    isic.write_parquet(tmp_path / "few")
    with pytest.raises(ValueError, match=r"has 19 images, 5 of them"):
        load_data("isic2017", tmp_path / "few")


def test_damaged_images_are_named(isic: TinyIsic, tmp_path: Path) -> None:
    isic.write_official(tmp_path)
    image = isic.image(tmp_path, "test", 3)
    whole = image.read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"not an image", b"\x89PNG\r\n\x1a\n"):
        image.write_bytes(data)
        with pytest.raises(ValueError, match=rf"{image.name} cannot be read as an image: .* again"):
            load_data("isic2017", tmp_path, image_size=5)
    isic.table(tmp_path, "test").unlink()
    for folder in tmp_path.glob("*_Data"):
        folder.rename(tmp_path / f"away {folder.name}")
    file = isic.write_parquet(tmp_path)
    cells = column(file, "image")
    for data, message in ((cells[21][:-50], "row 21: .*truncated"), (b"none", "row 21: ")):
        change_column(file, "image", [*cells[:21], data, *cells[22:]])
        with pytest.raises(ValueError, match=rf"isic2017_256\.parquet, {message}"):
            load_data("isic2017", tmp_path)
    isic.write_parquet(tmp_path, size=(256, 255))
    with pytest.raises(ValueError, match=r"parquet, row \d+: it is 256×255 pixels, not 256×256"):
        load_data("isic2017", tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("melanoma", lambda old: None, "it has no column 'melanoma'"),
        ("melanoma", lambda old: [*old[:9], 2, *old[10:]], "row 9: ISIC_.* has melanoma 2"),
        ("melanoma", lambda old: [*old[:9], None, *old[10:]], "1 empty cells"),
        ("split", lambda old: [*old[:9], "val", *old[10:]], "row 9: split is 'val'; accepted"),
        ("image_id", lambda old: [*old[:9], old[8], *old[10:]], "row 9: ISIC_.* follows ISIC_"),
        (
            "image_id",
            lambda old: old[::-1],
            "row 1: ISIC_.*accepted: each image once, in the order",
        ),
        ("image", lambda old: [*old[:9], None, *old[10:]], "row 9: its image is None"),
    ],
)
def test_damaged_parquet(isic: TinyIsic, tmp_path: Path, name: str, change, message: str) -> None:
    file = isic.write_parquet(tmp_path)
    if name == "image_id":
        # Descending within the first part, whatever the others are.
        assert column(file, "image_id")[0] < column(file, "image_id")[1]
    change_column(file, name, change(column(file, name)))
    with pytest.raises(ValueError, match=rf"isic2017_256\.parquet.*{message}"):
        load_data("isic2017", tmp_path)
