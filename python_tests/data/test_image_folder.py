"""Image folders: accepted structures, pixels, and errors that name the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sign_ext.data import fingerprint, load_data


def write(file: Path, pixels: np.ndarray, **options: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, **options)


def other_class(root: Path) -> None:
    """Black images of a second class, b."""
    for index in range(3):
        write(root / "b" / f"{index}.png", np.zeros((9, 9, 3), dtype=np.uint8))


@pytest.fixture
def zoo(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, dict[bytes, int]]:
    """Three classes of 7, 13 and 20 random 32×32 images, one of them deeper in its folder."""
    pixels = {}
    for label, (name, count) in enumerate((("ant", 7), ("bee", 13), ("cat", 20))):
        for index in range(count):
            image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            ending = (".png", ".bmp", ".tiff", ".PNG")[index % 4]
            below = "deeper/" if index == 3 else ""
            write(tmp_path / "zoo" / name / f"{below}{index:02d}{ending}", image)
            pixels[image.transpose(2, 0, 1).tobytes()] = label
    return tmp_path / "zoo", pixels


def test_a_folder_for_each_class(zoo: tuple[Path, dict[bytes, int]]) -> None:
    root, pixels = zoo
    splits = load_data(root)
    found: dict[bytes, int] = {}
    for part, counts in (
        (splits.train, [5, 9, 14]),
        (splits.validation, [1, 2, 3]),
        (splits.test, [1, 2, 3]),
    ):
        assert part.labels.bincount().tolist() == counts
        for image, label in zip(part.images.numpy(), part.labels.tolist(), strict=True):
            assert image.tobytes() not in found
            found[image.tobytes()] = label
    assert found == pixels
    assert splits.class_names == ("ant", "bee", "cat")
    assert splits.name == "zoo"
    assert splits.note == "images of zoo (40 in 3 classes, resized to 32×32)"
    again = load_data(str(root), seed=9)
    assert fingerprint(splits.train) == fingerprint(again.train)


def test_split_folders(tmp_path: Path, rng: np.random.Generator) -> None:
    root = tmp_path / "set"
    pixels: dict[str, list[bytes]] = {"train": [], "val": [], "test": []}
    for part, count in (("train", 10), ("val", 3), ("test", 1)):
        for name in ("x", "y"):
            for index in range(count):
                image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                write(root / part / name / f"{index}.png", image)
                pixels[part].append(image.transpose(2, 0, 1).tobytes())
    splits = load_data(root)
    for part, held in (("train", splits.train), ("val", splits.validation), ("test", splits.test)):
        assert [image.tobytes() for image in held.images.numpy()] == pixels[part]
    (root / "val").rename(root / "validation")
    assert fingerprint(load_data(root).validation) == fingerprint(splits.validation)

    (root / "validation").rename(tmp_path / "away")
    held_out = load_data(root)
    assert [len(held_out.train), len(held_out.validation), len(held_out.test)] == [17, 3, 2]
    both = [*held_out.train.images.numpy(), *held_out.validation.images.numpy()]
    assert sorted(image.tobytes() for image in both) == sorted(pixels["train"])


def test_a_class_may_be_called_train(tmp_path: Path, rng: np.random.Generator) -> None:
    for name in ("car", "train"):
        for index in range(4):
            image = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
            write(tmp_path / name / f"{index}.png", image)
    assert load_data(tmp_path).class_names == ("car", "train")


def test_images_of_any_shape_and_mode_become_rgb_squares(tmp_path: Path) -> None:
    colour = np.array([200, 100, 50], dtype=np.uint8)
    block = np.broadcast_to(colour, (41, 57, 3)).copy()
    alpha = np.dstack([block, np.full((41, 57), 9, dtype=np.uint8)])
    write(tmp_path / "a" / "0.png", block)
    write(tmp_path / "a" / "1.png", alpha)
    (tmp_path / "a" / "2.png").parent.mkdir(exist_ok=True)
    Image.fromarray(block).quantize(4).save(tmp_path / "a" / "2.png")
    Image.fromarray(block).convert("L").save(tmp_path / "a" / "3.png")
    other_class(tmp_path)
    splits = load_data(tmp_path, image_size=23)
    images = np.concatenate(
        [p.images[p.labels == 0].numpy() for p in (splits.train, splits.validation, splits.test)]
    )
    assert images.shape == (4, 3, 23, 23)
    grey = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    found = sorted(tuple(image[:, 0, 0].tolist()) for image in images)
    assert all((image == image[:, :1, :1]).all() for image in images)
    assert found == sorted([(200, 100, 50)] * 3 + [(grey, grey, grey)])


def test_resizing_averages(tmp_path: Path, rng: np.random.Generator) -> None:
    # Antialiased halving: a triangle of four pixels, weights 1, 3, 3, 1, inside the image.
    image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for index in range(3):
        write(tmp_path / "a" / f"{index}.png", image)
    other_class(tmp_path)
    found = load_data(tmp_path).test.images[0].numpy().transpose(1, 2, 0).astype(float)
    weights = np.zeros((32, 64))
    for row in range(1, 31):
        weights[row, 2 * row - 1 : 2 * row + 3] = np.array([1, 3, 3, 1]) / 8
    expected = np.einsum("ih,jw,hwc->ijc", weights, weights, image.astype(float))
    assert np.abs(found - expected)[1:31, 1:31].max() <= 1.01


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    image[:16] = 255  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180°
    for index in range(3):
        write(tmp_path / "a" / f"{index}.png", image, exif=exif)
    other_class(tmp_path)
    found = load_data(tmp_path).test.images[0].numpy()
    assert (found[:, :16] == 0).all()
    assert (found[:, 16:] == 255).all()


def test_other_files_are_counted(zoo: tuple[Path, dict[bytes, int]]) -> None:
    root, pixels = zoo
    (root / "ant" / "notes.txt").write_text("none")
    (root / "bee" / "._00.png").write_bytes(b"none")
    (root / ".cache").mkdir()
    splits = load_data(root)
    assert splits.note.endswith("left out: 1 hidden or tool's file, 1 file of another kind)")
    assert sum(map(len, (splits.train, splits.validation, splits.test))) == len(pixels)


def test_unreadable_images_are_named(zoo: tuple[Path, dict[bytes, int]]) -> None:
    root, _ = zoo
    victim = root / "bee" / "00.png"
    whole = victim.read_bytes()
    for data in (b"", b"not an image", whole[: len(whole) // 2]):
        victim.write_bytes(data)
        with pytest.raises(ValueError, match=r"bee.00\.png cannot be read as an image"):
            load_data(root)
    Image.fromarray(np.full((32, 32), 40_000, dtype=np.uint16)).save(victim)
    with pytest.raises(ValueError, match=r"bee.00\.png .*more than 8 bits"):
        load_data(root)


def test_errors_say_which_folders_are_accepted(tmp_path: Path, rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"has no class folders, no tars .*: the path of a"):
        load_data(tmp_path)
    for index in range(2):
        write(tmp_path / "few" / "a" / f"{index}.png", image)
    with pytest.raises(ValueError, match=r"one class folder, 'a', and a network needs two"):
        load_data(tmp_path / "few")
    other_class(tmp_path / "few")
    with pytest.raises(ValueError, match=r"class 'a' has 2 images .* at least 3"):
        load_data(tmp_path / "few")

    root = tmp_path / "parts"
    for index in range(2):
        write(root / "train" / "a" / f"{index}.png", image)
        write(root / "train" / "b" / f"{index}.png", image)
    with pytest.raises(ValueError, match=r"class 'a' has 2 images .* at least 3"):
        load_data(root)
    write(root / "test" / "b" / "0.png", image)
    with pytest.raises(ValueError, match=r"test has the classes \['b'\]"):
        load_data(root)
    write(root / "test" / "a" / "0.png", image)
    assert len(load_data(root).test) == 2
    for name in ("a", "b"):
        write(root / "val" / name / "0.png", image)
    assert len(load_data(root).validation) == 2
    write(root / "validation" / "a" / "0.png", image)
    with pytest.raises(ValueError, match="validation"):
        load_data(root)
