"""Area averages against the mean of repeated pixels, where no pixel is divided."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sign_ext.data import decode
from sign_ext.data.decode import average_areas, resize_images


def means(images: np.ndarray, size: int) -> np.ndarray:
    """Repeat each pixel `size` times both ways; then whole blocks of the old size are averaged."""
    count, channels, height, width = images.shape
    large = images.astype(np.float64).repeat(size, 2).repeat(size, 3)
    blocks = large.reshape(count, channels, size, height, size, width)
    return blocks.mean((3, 5))


@pytest.mark.parametrize(("height", "width", "size"), [(64, 64, 32), (9, 7, 4), (5, 11, 5)])
def test_average_areas(rng, monkeypatch, height: int, width: int, size: int) -> None:
    images = rng.integers(0, 256, (7, 3, height, width), dtype=np.uint8)
    # So that there are several chunks, the last of them shorter.
    monkeypatch.setattr(decode, "CHUNK", 3 * 3 * height * width)
    found = average_areas(torch.from_numpy(images), size)
    assert found.dtype == torch.uint8
    assert found.shape == (7, 3, size, size)
    # Half a grey level of rounding.
    assert np.abs(found.numpy() - means(images, size)).max() <= 0.5 + 1e-9


def test_average_areas_keeps_plain_images_and_its_own_size(rng: np.random.Generator) -> None:
    plain = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    for size in range(1, 65):
        assert average_areas(plain, size).unique().tolist() == [255]
    images = torch.from_numpy(rng.integers(0, 256, (2, 3, 13, 13), dtype=np.uint8))
    assert torch.equal(average_areas(images, 13), images)


@pytest.mark.parametrize("size", [0, 10])
def test_average_areas_only_reduces(size: int) -> None:
    with pytest.raises(ValueError, match=f"size={size}; accepted: 1 to 9"):
        average_areas(torch.zeros(1, 3, 9, 12, dtype=torch.uint8), size)


def test_chunks_do_not_change_resized_images(rng: np.random.Generator, monkeypatch) -> None:
    images = torch.from_numpy(rng.integers(0, 256, (7, 3, 11, 11), dtype=np.uint8))
    whole = resize_images(images, 17)
    monkeypatch.setattr(decode, "CHUNK", 2 * 3 * 17 * 17)
    assert torch.equal(resize_images(images, 17), whole)
