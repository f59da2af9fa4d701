"""Training, validation and test sets of one source, read only as far as they are needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sign_ext.data.image_set import ImageSet
from sign_ext.data.resize import resize_images
from sign_ext.data.stratify import stratified_choice


@dataclass(frozen=True, eq=False)
class Splits:
    """The three parts of a data set.

    Args:
        train: what a model is fitted to.
        validation: what epochs and settings are chosen by.
        test: what is reported, touched once.
        name: the data set's name.
        note: what the data really is, one line for reports.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    name: str
    note: str

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names, in label order."""
        return self.train.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of one image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


@dataclass(frozen=True, eq=False)
class Pool:
    """Images whose labels are known and whose pixels are read on demand.

    Args:
        labels: int64 (N,).
        read: increasing positions (n,) → uint8 tensor (n, 3, H, W).
    """

    labels: np.ndarray
    read: Callable[[np.ndarray], Tensor]


@dataclass(frozen=True)
class Wanted:
    """How much of a data set to read, and at what size.

    Args:
        train_size: training images, a stratified seeded subset; None for all.
        test_size: the same for the test set.
        seed: chooses the subsets; the splits themselves never move.
        image_size: height and width in pixels; None for the data set's own.
    """

    train_size: int | None = None
    test_size: int | None = None
    seed: int = 0
    image_size: int | None = None

    def __post_init__(self) -> None:
        """Refuse sizes that mean nothing before anything is read."""
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size={self.image_size}; accepted: 1 or more pixels.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed}; accepted: 0 to 2**32 − 1.")


def read_splits(
    name: str,
    note: str,
    class_names: tuple[str, ...],
    parts: tuple[tuple[Pool, np.ndarray], tuple[Pool, np.ndarray], tuple[Pool, np.ndarray]],
    wanted: Wanted,
) -> Splits:
    """Read the wanted images of a training, a validation and a test part.

    Args:
        name: the data set's name; sets are called ``name/train`` and so on.
        note: see `Splits`.
        class_names: one name a class.
        parts: for training, validation and test in this order, a pool and positions in it.
        wanted: subset sizes and image size.

    Returns:
        The splits.

    Raises:
        ValueError: a subset larger than its part.
    """
    sizes = (wanted.train_size, None, wanted.test_size)
    chosen = []
    for kind, size, (pool, where) in zip(("train", "", "test"), sizes, parts, strict=True):
        if size is not None:
            labels = pool.labels[where]
            where = where[
                stratified_choice(labels, size, seed=wanted.seed, argument=f"{kind}_size")
            ]
        chosen.append((pool, where))
    # Sizes are checked for every part before the first image is decoded.
    sets = [
        ImageSet(
            resize_images(pool.read(where), wanted.image_size),
            torch.from_numpy(pool.labels[where].astype(np.int64)),
            class_names,
            f"{name}/{kind}",
        )
        for kind, (pool, where) in zip(("train", "validation", "test"), chosen, strict=True)
    ]
    return Splits(sets[0], sets[1], sets[2], name, note)
