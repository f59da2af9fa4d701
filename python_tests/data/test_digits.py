"""The embedded digits against a resampling formula in NumPy."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits

from sign_ext.data import fingerprint, load_data


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
    # Which original an image is, is not told, so each side must find its like in the other.
    for digit in range(10):
        ours, theirs = found[labels == digit, 0], expected[bundled.target == digit]
        distance = np.abs(ours[:, None, ::3, ::3] - theirs[None, :, ::3, ::3]).max((2, 3))
        # Half a level of rounding, and a hair for float32.
        matched = distance <= 0.501
        assert matched.any(0).all()
        assert matched.any(1).all()


def test_parts() -> None:
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


def test_seed_chooses_subsets_and_never_moves_the_splits() -> None:
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


def test_too_many() -> None:
    with pytest.raises(ValueError, match=r"train_size=2000 .* 1 to 1259"):
        load_data("digits", train_size=2000)
    with pytest.raises(ValueError, match="test_size=0"):
        load_data("digits", test_size=0)
