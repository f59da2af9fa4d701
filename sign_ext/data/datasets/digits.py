"""scikit-learn's bundled handwritten digits: real images that need no download."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from sign_ext.data.datasets.isic2017 import COUNTS
from sign_ext.data.image_set import ImageSet
from sign_ext.data.lazy import ImageIndex, LazyDataset
from sign_ext.data.splits import SPLIT_SEED, SubsetSpec, stratified_choice, three_way_split

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DEFAULT_SIZE = 32


def open_digits(wanted: SubsetSpec) -> LazyDataset:
    """Find the 1,797 digits as RGB images in 0–255, split 70/15/15 by class.

    Args:
        wanted: subset sizes and image size (default 32).

    Returns:
        The splits, unread; ink levels 0–16 of the 8×8 originals are scaled to 0–255 and resized.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
        ValueError: a subset larger than its part.
    """
    pool = digits_pool(wanted.image_size)
    train, validation, test = three_way_split(pool.labels)
    note = f"scikit-learn's handwritten digits ({len(pool.labels):,} images of 8×8, resized)"
    parts = ((pool, train), (pool, validation), (pool, test))
    return LazyDataset("digits", note, CLASS_NAMES, parts, wanted)


def digits_pool(image_size: int | None) -> ImageIndex:
    """Read all digits; they are enlarged when they are asked for.

    Args:
        image_size: height and width in pixels; None for 32.

    Returns:
        The 1,797 images in scikit-learn's order, labelled 0 to 9.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    from sklearn.datasets import load_digits

    bundled = load_digits()
    labels = np.asarray(bundled.target, dtype=np.int64)
    # Resized before rounding to whole grey levels, so the smooth strokes keep their precision.
    ink = torch.from_numpy(np.asarray(bundled.images, dtype=np.float32)) * (255.0 / 16.0)
    size = image_size or DEFAULT_SIZE

    def read(where: np.ndarray) -> Tensor:
        grey = torch.nn.functional.interpolate(
            ink[torch.from_numpy(where)].unsqueeze(1),
            size=(size, size),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        return grey.round().clamp(0, 255).to(torch.uint8).repeat(1, 3, 1, 1)

    def identities(where: np.ndarray) -> list[bytes]:
        return [ink[position].numpy().tobytes() for position in where]

    return ImageIndex(labels, read, size, identities, resident_bytes=ink.nbytes)


# The digits as an imbalanced problem of two classes: a stand-in for ISIC-2017.


IMBALANCED_CLASS_NAMES = ("other", "eight")
POSITIVE = 8


def open_digits_imbalanced(wanted: SubsetSpec) -> LazyDataset:
    """Find the digits as "is it an eight?", as imbalanced as melanomas are in ISIC-2017.

    Every eight of a part of the digits is kept, and as many of the other digits, in their own
    proportions, as give it the share of positives that ISIC-2017's part has (374 of 2,000 for
    training).

    Args:
        wanted: subset sizes and image size (default 32).

    Returns:
        The splits, unread: parts of the digits; ``note`` says that they stand for ISIC-2017.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
        ValueError: a subset larger than its part.
    """
    digits = digits_pool(wanted.image_size)
    pool = dataclasses.replace(digits, labels=(digits.labels == POSITIVE).astype(np.int64))
    first, second, third = (
        (pool, _imbalanced(digits.labels, where, *COUNTS[split]))
        for split, where in zip(COUNTS, three_way_split(digits.labels), strict=True)
    )
    total = sum(len(where) for _, where in (first, second, third))
    note = f"stand-in for ISIC-2017: scikit-learn's handwritten digits, eight or other ({total:,}"
    note += " images of 8×8, resized, as imbalanced as ISIC-2017)"
    return LazyDataset(
        "digits_imbalanced", note, IMBALANCED_CLASS_NAMES, (first, second, third), wanted
    )


def _imbalanced(digits: np.ndarray, where: np.ndarray, images: int, positives: int) -> np.ndarray:
    """Keep all eights of some positions and the others that make them `positives` of `images`."""
    positive = digits[where] == POSITIVE
    others = where[~positive]
    count = round(int(positive.sum()) * (images - positives) / positives)
    kept = others[stratified_choice(digits[others], count, seed=SPLIT_SEED)]
    return np.sort(np.concatenate([where[positive], kept]))


# The digits' test images moved, scaled and with less contrast: a stand-in for Tiny ImageNet.


# The set is part of an experiment's definition, so its seed and amounts are not options.
SHIFT_SEED = 0
LARGEST_SHIFT = 0.125  # of the width: 4 of 32 pixels
SCALES = (0.75, 1.25)
CONTRASTS = (0.4, 1.0)


def load_digits_shifted(image_size: int | None = None) -> ImageSet:
    """Read the digits' 269 test images, each changed by amounts of its own.

    Args:
        image_size: height and width in pixels; None for 32. The amounts do not depend on it.

    Returns:
        uint8 images with the digits' ten classes, in the order of the digits' test set.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    pool = digits_pool(image_size)
    _, _, test = three_way_split(pool.labels)
    shifts, scales, contrasts = shift_amounts(len(test))
    images = shift_images(pool.read(test), shifts, scales, contrasts)
    name = "digits_shifted (stand-in for tiny_imagenet)"
    return ImageSet(images, torch.from_numpy(pool.labels[test]), CLASS_NAMES, name)


def shift_amounts(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw how each image is changed; the same numbers in every run.

    Args:
        count: number of images.

    Returns:
        float64: shifts (count, 2) to the right and down in widths of the image, scales (count,)
        and contrasts (count,), each uniform in its range.
    """
    # RandomState, because NumPy promises that its numbers never change between releases.
    random = np.random.RandomState(SHIFT_SEED)
    shifts = random.uniform(-LARGEST_SHIFT, LARGEST_SHIFT, (count, 2))
    scales = random.uniform(*SCALES, count)
    contrasts = random.uniform(*CONTRASTS, count)
    return torch.from_numpy(shifts), torch.from_numpy(scales), torch.from_numpy(contrasts)


def shift_images(images: Tensor, shifts: Tensor, scales: Tensor, contrasts: Tensor) -> Tensor:
    """Scale images about their centre, move them, and pull their grey levels towards the middle.

    Args:
        images: uint8 (N, C, H, W).
        shifts: float64 (N, 2), to the right and down, in widths and heights of the image.
        scales: float64 (N,), above 1 enlarges.
        contrasts: float64 (N,), factor of the distance from grey level 127.5.

    Returns:
        uint8 (N, C, H, W): bilinear, black where nothing was, rounded to whole grey levels.

    Example:
        >>> image = torch.tensor([[[[0, 0], [255, 0]]]], dtype=torch.uint8)
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> right = torch.tensor([[0.5, 0.0]], dtype=torch.float64)
        >>> shift_images(image, right, one, one).tolist()
        [[[[0, 0], [0, 255]]]]
    """
    # grid_sample's coordinates run from −1 to 1, twice a width, and say where a pixel comes from.
    matrix = torch.zeros(len(images), 2, 3, dtype=torch.float64)
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1 / scales
    matrix[:, :, 2] = -2 * shifts / scales.unsqueeze(1)
    grid = torch.nn.functional.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(
        images.double(), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    grey = 127.5 + contrasts.view(-1, 1, 1, 1) * (moved - 127.5)
    return grey.round().clamp(0, 255).to(torch.uint8)
