"""The digits as an imbalanced problem of two classes: a stand-in for ISIC-2017."""

from __future__ import annotations

import dataclasses

import numpy as np

from sign_ext.data.datasets.digits import digits_pool
from sign_ext.data.datasets.isic2017 import COUNTS
from sign_ext.data.lazy import Unread
from sign_ext.data.splits import SPLIT_SEED, Wanted, stratified_choice, three_way_split

IMBALANCED_CLASS_NAMES = ("other", "eight")
POSITIVE = 8


def open_digits_imbalanced(wanted: Wanted) -> Unread:
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
    return Unread("digits_imbalanced", note, IMBALANCED_CLASS_NAMES, (first, second, third), wanted)


def _imbalanced(digits: np.ndarray, where: np.ndarray, images: int, positives: int) -> np.ndarray:
    """Keep all eights of some positions and the others that make them `positives` of `images`."""
    positive = digits[where] == POSITIVE
    others = where[~positive]
    count = round(int(positive.sum()) * (images - positives) / positives)
    kept = others[stratified_choice(digits[others], count, seed=SPLIT_SEED)]
    return np.sort(np.concatenate([where[positive], kept]))
