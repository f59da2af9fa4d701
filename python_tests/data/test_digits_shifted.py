"""The stand-in for Tiny ImageNet against SciPy's resampling in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from sign_ext.data import fingerprint, load_data, load_ood
from sign_ext.data.datasets.digits import shift_amounts, shift_images


def expected(image: np.ndarray, shift: np.ndarray, scale: float, contrast: float) -> np.ndarray:
    """Look up, for each pixel's centre, where it was before, in pixels from the image's centre."""
    _, height, width = image.shape
    middle = np.array([(height - 1) / 2, (width - 1) / 2])
    moved = np.array([shift[1] * height, shift[0] * width])
    rows, columns = np.mgrid[:height, :width]
    source = [
        (place - centre - by) / scale + centre
        for place, centre, by in zip((rows, columns), middle, moved, strict=True)
    ]
    channels = [
        # A border of zeros, so that the edge fades as bilinear sampling of black does.
        map_coordinates(np.pad(each, 1), [p + 1 for p in source], order=1, mode="constant")
        for each in image.astype(np.float64)
    ]
    return 127.5 + contrast * (np.stack(channels) - 127.5)


def test_images_are_moved_scaled_and_paler(rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (6, 3, 13, 17), dtype=np.uint8)
    shifts = rng.uniform(-0.4, 0.4, (6, 2))
    scales = rng.uniform(0.5, 2, 6)
    contrasts = rng.uniform(0, 1, 6)
    found = shift_images(
        torch.from_numpy(images), *(torch.from_numpy(each) for each in (shifts, scales, contrasts))
    )
    for image, shift, scale, contrast, result in zip(
        images, shifts, scales, contrasts, found.numpy(), strict=True
    ):
        error = np.abs(result - expected(image, shift, scale, contrast))
        assert error.max() <= 0.5 + 1e-6


@pytest.mark.parametrize("size", [None, 21])
def test_it_is_the_digits_test_set_changed(size: int | None) -> None:
    shifted, test = load_ood("digits_shifted", image_size=size), load_data("digits").test
    assert shifted.labels.tolist() == test.labels.tolist()
    assert shifted.class_names == test.class_names
    assert shifted.images.shape == (269, 3, size or 32, size or 32)
    assert "stand-in for tiny_imagenet" in shifted.name
    assert fingerprint(shifted) == fingerprint(load_ood("digits_shifted", image_size=size))


def test_amounts_are_fixed_and_in_their_ranges() -> None:
    shifts, scales, contrasts = shift_amounts(269)
    assert shifts.shape == (269, 2)
    for values, low, high in (
        (shifts, -0.125, 0.125),
        (scales, 0.75, 1.25),
        (contrasts, 0.4, 1.0),
    ):
        assert low <= values.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < values.max() <= high
    assert all(map(torch.equal, shift_amounts(269), (shifts, scales, contrasts)))
