"""The digits against a resampling formula in NumPy, and the two stand-ins made from them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from sklearn.datasets import load_digits

from sign_ext.data import ImageSet, fingerprint, load_data, load_ood
from sign_ext.data.datasets.digits import draw_shifts, shift_images


def upsample(images: np.ndarray, size: int) -> np.ndarray:
    """Bilinear enlargement in float64: pixel i lies at (i + ½)·8/size − ½, edges repeated."""
    position = np.clip((np.arange(size) + 0.5) * 8 / size - 0.5, 0, 7)
    low = np.minimum(np.floor(position).astype(int), 6)
    weights = np.zeros((size, 8))
    weights[np.arange(size), low] = 1 - (position - low)
    weights[np.arange(size), low + 1] += position - low
    return weights @ images @ weights.T


@pytest.mark.parametrize("size", [None, 45])
def test_pixels_are_the_originals_enlarged(size: int | None) -> None:
    bundled = load_digits()
    splits = load_data("digits", image_size=size)
    parts = [splits.train, splits.validation, splits.test]
    assert splits.image_shape == (3, size or 32, size or 32)
    found = np.concatenate([part.images.numpy() for part in parts]).astype(np.float64)
    labels = np.concatenate([part.labels.numpy() for part in parts])
    assert (found == found[:, :1]).all()
    expected = upsample(bundled.images * 255 / 16, size or 32)

    assert Counter(labels.tolist()) == Counter(bundled.target.tolist())
    # Which original an image comes from is unknown, so each must match one of the other side.
    for digit in range(10):
        actual, wanted = found[labels == digit, 0], expected[bundled.target == digit]
        distance = np.abs(actual[:, None, ::3, ::3] - wanted[None, :, ::3, ::3]).max((2, 3))
        # Half a grey level of rounding, plus float32 error.
        matched = distance <= 0.501
        assert matched.any(0).all()
        assert matched.any(1).all()


def test_splits() -> None:
    splits = load_data("digits")
    total = np.bincount(load_digits().target)
    for part, share in ((splits.train, 0.70), (splits.validation, 0.15), (splits.test, 0.15)):
        assert np.abs(part.labels.bincount().numpy() - share * total).max() <= 1
        assert part.images.dtype.itemsize == 1
        assert part.images.min() == 0
        assert part.images.max() == 255
    assert sum(map(len, (splits.train, splits.validation, splits.test))) == 1797
    assert splits.name == "digits"
    assert splits.test.name == "digits/test"
    assert "1,797" in splits.note


def test_seed_chooses_subsets_and_never_changes_the_splits() -> None:
    whole, one, two, again = (
        load_data("digits", seed=seed, train_size=size, test_size=size)
        for seed, size in ((0, None), (1, 57), (2, 57), (1, 57))
    )
    assert fingerprint(whole.validation) == fingerprint(one.validation)
    assert fingerprint(one.validation) == fingerprint(two.validation)
    assert fingerprint(one.train) == fingerprint(again.train)
    assert fingerprint(one.train) != fingerprint(two.train)
    for part in ("train", "test"):
        everything = {image.tobytes() for image in getattr(whole, part).images.numpy()}
        chosen = getattr(one, part)
        assert {image.tobytes() for image in chosen.images.numpy()} <= everything
        assert len(chosen) == 57
        assert chosen.labels.bincount().min() >= 5
        assert chosen.labels.bincount().max() <= 6


def test_sizes_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"train_size=2000; accepted: 1 to 1259"):
        load_data("digits", train_size=2000)
    with pytest.raises(ValueError, match="test_size=0"):
        load_data("digits", test_size=0)


def label_of_image(images: ImageSet) -> dict[bytes, int]:
    pixels = images.images.numpy()
    return {
        image.tobytes(): label for image, label in zip(pixels, images.labels.tolist(), strict=True)
    }


def test_imbalanced_splits_are_parts_of_the_digits() -> None:
    digits, splits = load_data("digits"), load_data("digits_imbalanced")
    for part, share in (("train", 374 / 2000), ("validation", 30 / 150), ("test", 117 / 600)):
        whole, chosen = label_of_image(getattr(digits, part)), label_of_image(getattr(splits, part))
        # scikit-learn's digits are all different, and remain so when resized.
        assert len(chosen) == len(getattr(splits, part))
        assert {image: int(whole[image] == 8) for image in chosen} == chosen
        eights = sum(chosen.values())
        assert eights == list(whole.values()).count(8)
        # No other integer comes closer to the share.
        wanted = eights / share - eights
        assert abs(len(chosen) - eights - wanted) <= 0.5
        others = [whole[image] for image, positive in chosen.items() if not positive]
        every = [digit for digit in whole.values() if digit != 8]
        for digit in {*every}:
            expected = len(others) * every.count(digit) / len(every)
            assert abs(others.count(digit) - expected) < 1
    assert splits.class_names == ("other", "eight")
    assert splits.name == "digits_imbalanced"
    assert splits.note.startswith("stand-in for ISIC-2017")


def test_imbalanced_sizes_and_seeds() -> None:
    one, two = (
        load_data("digits_imbalanced", train_size=53, test_size=41, image_size=19, seed=seed)
        for seed in (1, 2)
    )
    assert one.image_shape == (3, 19, 19)
    assert one.train.labels.bincount().tolist() == [43, 10]
    assert one.test.labels.bincount().tolist() == [33, 8]
    assert fingerprint(one.train) != fingerprint(two.train)
    assert fingerprint(one.validation) == fingerprint(two.validation)
    with pytest.raises(ValueError, match=r"train_size=700; accepted: 1 to 652"):
        load_data("digits_imbalanced", train_size=700)


def shifted_image(
    image: np.ndarray, shift: np.ndarray, scale: float, contrast: float
) -> np.ndarray:
    """Look up each output pixel at its position in the input, in pixels from the image's centre."""
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


def test_images_are_shifted_scaled_and_paler(rng: np.random.Generator) -> None:
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
        error = np.abs(result - shifted_image(image, shift, scale, contrast))
        assert error.max() <= 0.5 + 1e-6


@pytest.mark.parametrize("size", [None, 21])
def test_shifted_is_the_digits_test_set(size: int | None) -> None:
    shifted, test = load_ood("digits_shifted", image_size=size), load_data("digits").test
    assert shifted.labels.tolist() == test.labels.tolist()
    assert shifted.class_names == test.class_names
    assert shifted.images.shape == (269, 3, size or 32, size or 32)
    assert "stand-in for tiny_imagenet" in shifted.name
    assert fingerprint(shifted) == fingerprint(load_ood("digits_shifted", image_size=size))


def test_shifts_are_fixed_and_in_their_ranges() -> None:
    shifts, scales, contrasts = draw_shifts(269)
    assert shifts.shape == (269, 2)
    for values, low, high in (
        (shifts, -0.125, 0.125),
        (scales, 0.75, 1.25),
        (contrasts, 0.4, 1.0),
    ):
        assert low <= values.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < values.max() <= high
    assert all(map(torch.equal, draw_shifts(269), (shifts, scales, contrasts)))
