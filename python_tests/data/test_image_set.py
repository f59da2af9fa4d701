"""ImageSet: what it refuses, and that subsets and concatenations are exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sign_ext.data import ImageSet, Splits, fingerprint


def make(rng: np.random.Generator, count: int = 7, dtype: type = np.uint8) -> ImageSet:
    images = rng.integers(0, 256, (count, 3, 5, 9)).astype(dtype)
    labels = torch.from_numpy(rng.integers(0, 3, count))
    return ImageSet(torch.from_numpy(images), labels, ("a", "b", "c"), "x/train")


def test_subset_and_concatenate(rng: np.random.Generator) -> None:
    whole = make(rng)
    pixels = whole.images.numpy().copy()
    first, second = whole.subset([6, 0, 0]), whole.subset(torch.arange(7) % 2 == 1)
    np.testing.assert_array_equal(first.images.numpy(), pixels[[6, 0, 0]])
    np.testing.assert_array_equal(second.images.numpy(), pixels[1::2])
    first.images.zero_()
    np.testing.assert_array_equal(whole.images.numpy(), pixels)
    assert len(whole.subset([])) == 0

    joined = ImageSet.concatenate([whole, second])
    np.testing.assert_array_equal(joined.images.numpy(), np.concatenate([pixels, pixels[1::2]]))
    assert joined.labels.tolist() == whole.labels.tolist() + whole.labels.tolist()[1::2]
    assert joined.images.dtype == torch.uint8
    assert joined.name == "x/train"
    mixed = ImageSet.concatenate([whole, make(rng, 2, np.float32)], name="both")
    assert mixed.images.dtype == torch.float32
    np.testing.assert_array_equal(mixed.images[:7].numpy(), pixels.astype(np.float32))
    assert mixed.name == "both"


def test_concatenate_refuses_what_does_not_fit(rng: np.random.Generator) -> None:
    whole = make(rng)
    with pytest.raises(ValueError, match="empty"):
        ImageSet.concatenate([])
    other = ImageSet(whole.images, whole.labels, ("a", "c", "b"), "y")
    with pytest.raises(ValueError, match="classes"):
        ImageSet.concatenate([whole, other])
    with pytest.raises(ValueError, match="resize"):
        ImageSet.concatenate([whole, ImageSet(whole.images[..., :4], whole.labels, "abc", "y")])


def test_float_keeps_pixel_units(rng: np.random.Generator) -> None:
    whole = make(rng)
    assert whole.float().dtype == torch.float32
    np.testing.assert_array_equal(whole.float().numpy(), whole.images.numpy().astype(np.float32))


def test_images_become_contiguous(rng: np.random.Generator) -> None:
    turned = make(rng).images.to(memory_format=torch.channels_last)
    kept = ImageSet(turned, torch.zeros(7, dtype=torch.int64), ("a",), "x")
    assert kept.images.is_contiguous()
    assert torch.equal(kept.images, turned)


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (torch.zeros(2, 3, 4, 4, dtype=torch.float64), torch.zeros(2).long(), TypeError, "images"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2), TypeError, "labels"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2).long(), ValueError, "images"),
        (torch.zeros(3, 4, 4), torch.zeros(3).long(), ValueError, "images"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(3).long(), ValueError, "labels"),
        (torch.zeros(2, 3, 4, 4), torch.tensor([0, 2]), ValueError, "0 to 2; accepted: 0 to 1"),
        (torch.zeros(2, 3, 4, 4), torch.tensor([0, -1]), ValueError, "-1"),
        (torch.zeros(2, 3, 4, 4, device="meta"), torch.zeros(2).long(), ValueError, "meta"),
    ],
)
def test_bad_sets_are_refused(images, labels, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ImageSet(images, labels, ("a", "b"), "x")


def test_fingerprint_sees_every_change(rng: np.random.Generator) -> None:
    whole = make(rng)
    prints = {fingerprint(whole)}
    changed = whole.subset(range(7))
    assert fingerprint(changed) in prints
    changed.images[3, 1, 2, 8] ^= 1
    prints.add(fingerprint(changed))
    labels = whole.labels.clone()
    labels[6] = (labels[6] + 1) % 3
    prints.add(fingerprint(ImageSet(whole.images, labels, whole.class_names, "x")))
    prints.add(fingerprint(ImageSet(whole.float(), whole.labels, whole.class_names, "x")))
    turned = whole.images.reshape(7, 3, 9, 5)
    prints.add(fingerprint(ImageSet(turned, whole.labels, whole.class_names, "x")))
    prints.add(fingerprint(whole.subset([])))
    assert len(prints) == 6


def test_splits_describe_themselves(rng: np.random.Generator) -> None:
    splits = Splits(make(rng), make(rng), make(rng), "x", "random numbers")
    assert splits.image_shape == (3, 5, 9)
    assert splits.class_names == ("a", "b", "c")
