"""scikit-learn's bundled handwritten digits, and two stand-ins made from them.

`digits_imbalanced` stands in for ISIC-2017, `digits_shifted` for Tiny ImageNet. None of them needs
a download.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from sign_ext.data.datasets.isic2017 import COUNTS
from sign_ext.data.image_set import ImageSet
from sign_ext.data.lazy import DEFAULT_SIZE, ImageIndex, LazyDataset, split_index
from sign_ext.data.splits import SPLIT_SEED, SubsetSpec, stratified_choice, three_way_split

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# digits_imbalanced: is it an eight?
IMBALANCED_CLASS_NAMES = ("other", "eight")
POSITIVE = 8
# digits_shifted is part of an experiment's definition, so its seed and ranges are not options.
SHIFT_SEED = 0
LARGEST_SHIFT = 0.125  # of the width: 4 of 32 pixels
SCALES = (0.75, 1.25)
CONTRASTS = (0.4, 1.0)


def open_digits(subset: SubsetSpec) -> LazyDataset:
    """List the 1,797 digits as RGB images in 0–255, split 70/15/15 by class.

    Args:
        subset: subset sizes and image size (default 32).

    Returns:
        The data set; ink levels 0–16 of the 8×8 originals are scaled to 0–255 and resized.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
        ValueError: a subset larger than its split.
    """
    index = _index(subset.image_size)
    note = f"scikit-learn's handwritten digits ({len(index.labels):,} images of 8×8, resized)"
    return LazyDataset("digits", note, CLASS_NAMES, split_index(index), subset)


def _index(image_size: int | None) -> ImageIndex:
    """Read the 1,797 digits in scikit-learn's order, labelled 0 to 9; they are resized on demand.

    Args:
        image_size: height and width in pixels; None for 32.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    from sklearn.datasets import load_digits

    bundled = load_digits()
    labels = np.asarray(bundled.target, dtype=np.int64)
    ink = torch.from_numpy(np.asarray(bundled.images, dtype=np.float32)) * (255.0 / 16.0)
    size = image_size or DEFAULT_SIZE

    def read(positions: np.ndarray) -> Tensor:
        # Resized as floats and then rounded, so that smooth strokes keep their precision.
        grey = torch.nn.functional.interpolate(
            ink[torch.from_numpy(positions)].unsqueeze(1),
            size=(size, size),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        return grey.round().clamp(0, 255).to(torch.uint8).repeat(1, 3, 1, 1)

    def identities(positions: np.ndarray) -> list[bytes]:
        return [ink[position].numpy().tobytes() for position in positions]

    return ImageIndex(labels, read, size, identities, resident_bytes=ink.nbytes)


def open_digits_imbalanced(subset: SubsetSpec) -> LazyDataset:
    """List the digits as "is it an eight?", as imbalanced as melanomas are in ISIC-2017.

    Each split of the digits keeps all its eights, and as many of the other digits, in their own
    proportions, as give it the share of positives of ISIC-2017's split (374 of 2,000 for training).

    Args:
        subset: subset sizes and image size (default 32).

    Returns:
        The data set; ``note`` says that it stands in for ISIC-2017.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
        ValueError: a subset larger than its split.
    """
    digits = _index(subset.image_size)
    index = dataclasses.replace(digits, labels=(digits.labels == POSITIVE).astype(np.int64))
    train, validation, test = (
        (index, _imbalance(digits.labels, positions, *COUNTS[split]))
        for split, positions in zip(COUNTS, three_way_split(digits.labels), strict=True)
    )
    total = sum(len(positions) for _, positions in (train, validation, test))
    note = f"stand-in for ISIC-2017: scikit-learn's handwritten digits, eight or other ({total:,}"
    note += " images of 8×8, resized, as imbalanced as ISIC-2017)"
    return LazyDataset(
        "digits_imbalanced", note, IMBALANCED_CLASS_NAMES, (train, validation, test), subset
    )


def _imbalance(
    digits: np.ndarray, positions: np.ndarray, images: int, positives: int
) -> np.ndarray:
    """Keep all eights, and as many others as make the eights `positives` of `images`."""
    is_positive = digits[positions] == POSITIVE
    others = positions[~is_positive]
    count = round(int(is_positive.sum()) * (images - positives) / positives)
    kept = others[stratified_choice(digits[others], count, seed=SPLIT_SEED)]
    return np.sort(np.concatenate([positions[is_positive], kept]))


def load_digits_shifted(image_size: int | None = None) -> ImageSet:
    """Read the digits' 269 test images, each shifted, scaled and with less contrast.

    Args:
        image_size: height and width in pixels; None for 32. The changes do not depend on it.

    Returns:
        uint8 images with the digits' ten classes, in the order of the digits' test split.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    index = _index(image_size)
    _, _, test = three_way_split(index.labels)
    images = shift_images(index.read(test), *draw_shifts(len(test)))
    name = "digits_shifted (stand-in for tiny_imagenet)"
    return ImageSet(images, torch.from_numpy(index.labels[test]), CLASS_NAMES, name)


def draw_shifts(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw how each image is changed; the same numbers every time.

    Args:
        count: number of images.

    Returns:
        float64: shifts (count, 2) to the right and down in widths of the image, scales (count,)
        and contrasts (count,), each uniform in its range.
    """
    # RandomState, whose stream NumPy guarantees never to change between releases.
    random = np.random.RandomState(SHIFT_SEED)
    shifts = random.uniform(-LARGEST_SHIFT, LARGEST_SHIFT, (count, 2))
    scales = random.uniform(*SCALES, count)
    contrasts = random.uniform(*CONTRASTS, count)
    return torch.from_numpy(shifts), torch.from_numpy(scales), torch.from_numpy(contrasts)


def shift_images(images: Tensor, shifts: Tensor, scales: Tensor, contrasts: Tensor) -> Tensor:
    """Scale images about their centre, shift them, and reduce their contrast.

    Args:
        images: uint8 (N, C, H, W).
        shifts: float64 (N, 2), to the right and down, in widths and heights of the image.
        scales: float64 (N,), above 1 enlarges.
        contrasts: float64 (N,), factor of the distance from grey level 127.5.

    Returns:
        uint8 (N, C, H, W): bilinear, black outside the original, rounded to integers.

    Example:
        >>> image = torch.tensor([[[[0, 0], [255, 0]]]], dtype=torch.uint8)
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> right = torch.tensor([[0.5, 0.0]], dtype=torch.float64)
        >>> shift_images(image, right, one, one).tolist()
        [[[[0, 0], [0, 255]]]]
    """
    # affine_grid maps an output position to the input position it is read from, so the matrix is
    # the inverse of the change; its coordinates run from −1 to 1, hence 2 for a whole width.
    matrix = torch.zeros(len(images), 2, 3, dtype=torch.float64)
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1 / scales
    matrix[:, :, 2] = -2 * shifts / scales.unsqueeze(1)
    grid = torch.nn.functional.affine_grid(matrix, list(images.shape), align_corners=False)
    shifted = torch.nn.functional.grid_sample(
        images.double(), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    grey = 127.5 + contrasts.view(-1, 1, 1, 1) * (shifted - 127.5)
    return grey.round().clamp(0, 255).to(torch.uint8)
