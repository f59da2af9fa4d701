"""Decoding large JPEGs at reduced size against decoding them whole."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sign_ext.data.decode import decode_rgb


def photograph(rng: np.random.Generator, width: int, height: int, turned: int = 1) -> bytes:
    """A JPEG of soft blotches with some noise, like skin, and sharp edges on all four sides."""
    blotches = rng.integers(60, 196, (6, 8, 3), dtype=np.uint8)
    soft = Image.fromarray(blotches).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(soft) + rng.normal(0, 8, (height, width, 1))
    pixels[:3], pixels[-5:] = 250, 5
    pixels[:, :4], pixels[:, -6:] = 200, 30
    exif = Image.Exif()
    exif[0x0112] = turned
    buffer = io.BytesIO()
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    image.save(buffer, "JPEG", quality=92, exif=exif)
    return buffer.getvalue()


def triangle(old: int, new: int) -> np.ndarray:
    """Antialiased bilinear weights in float64, (new, old): a triangle two new pixels wide."""
    step = old / new
    centre = (np.arange(new)[:, None] + 0.5) * step
    weights = np.maximum(0, 1 - np.abs(np.arange(old) + 0.5 - centre) / step)
    return weights / weights.sum(1, keepdims=True)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The sizes at which JPEGs are decoded, in order."""
    from PIL.JpegImagePlugin import JpegImageFile

    seen: list[tuple[int, int]] = []
    load = JpegImageFile.load

    def noted(image: JpegImageFile) -> object:
        seen.append(image.size)
        return load(image)

    monkeypatch.setattr(JpegImageFile, "load", noted)
    return seen


@pytest.mark.parametrize(
    ("width", "height", "size", "scale"),
    [(1203, 901, 57, 4), (1203, 901, 50, 8), (411, 263, 32, 4), (903, 640, 160, 2)],
)
def test_reduced_jpegs_are_close_to_whole_ones(
    rng: np.random.Generator, sizes, width: int, height: int, size: int, scale: int
) -> None:
    data = photograph(rng, width, height)
    found = decode_rgb(data, size).astype(np.float64)
    # Each side is rounded up, and the smallest is at least twice the size.
    assert set(sizes) == {(-(-width // scale), -(-height // scale))}
    assert min(sizes[0]) >= 2 * size
    with Image.open(io.BytesIO(data)) as image:
        whole = np.asarray(image, dtype=np.float64)
    assert whole.shape == (height, width, 3)
    expected = np.einsum(
        "ih,jw,hwc->ijc", triangle(height, size), triangle(width, size), whole, optimize=True
    )
    error = np.abs(found - expected)
    inside = error[2:-2, 2:-2]
    assert inside.max() <= 2.5
    assert inside.mean() <= 0.4
    # At the sharp sides, which are steps of 100 levels and more, the two filters differ.
    assert error.max() <= 16
    # Nothing is shifted: half a pixel to the side would give a larger error.
    moved = np.abs(found[2:-2, 2:-2] - (expected[2:-2, 2:-2] + expected[2:-2, 3:-1]) / 2)
    assert moved.mean() > 2 * inside.mean()


def test_smaller_jpegs_are_decoded_whole(rng: np.random.Generator, sizes) -> None:
    data = photograph(rng, 200, 127)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
    sizes.clear()
    np.testing.assert_array_equal(decode_rgb(data, 32), expected)
    assert decode_rgb(data, None).shape == (127, 200, 3)
    assert set(sizes) == {(200, 127)}


def test_reduced_jpegs_are_rotated(rng: np.random.Generator, seed: int) -> None:
    plain = decode_rgb(photograph(np.random.default_rng(seed), 603, 411), 40)
    for orientation, turn in (
        (2, lambda image: image[:, ::-1]),
        (3, lambda image: image[::-1, ::-1]),
        (6, lambda image: np.rot90(image, -1)),
        (8, np.rot90),
    ):
        data = photograph(np.random.default_rng(seed), 603, 411, orientation)
        np.testing.assert_array_equal(decode_rgb(data, 40), turn(plain))


def test_grey_and_cut_short(rng: np.random.Generator, tmp_path: Path) -> None:
    grey = rng.integers(0, 256, (400, 300), dtype=np.uint8)
    file = tmp_path / "grey.jpg"
    Image.fromarray(grey).save(file, quality=95)
    found = decode_rgb(file, 20)
    assert (found == found[:, :, :1]).all()
    assert np.abs(found.astype(float).mean() - grey.mean()) <= 1
    file.write_bytes(file.read_bytes()[:-3000])
    with pytest.raises(OSError, match="truncated"):
        decode_rgb(file, 20)
