"""Training, validation and test set of one data set, and how much of each is wanted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sign_ext.data.image_set import ImageSet


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


@dataclass(frozen=True)
class SubsetSpec:
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


# Choosing images class by class, so that every part has the same mix of classes.


# Splits are part of the experiment's definition, so their seed is not an option.
SPLIT_SEED = 0


def shares(counts: np.ndarray, size: int) -> np.ndarray:
    """Divide ``size`` images over classes in proportion to their counts (largest remainder).

    Args:
        counts: int64 (classes,), the images there are of each class.
        size: how many to hand out, at most ``counts.sum()``.

    Returns:
        int64 (classes,) that sums to ``size``; equal counts give shares that differ by at most one.
    """
    total = int(counts.sum())
    whole, remainder = np.divmod(counts.astype(np.int64) * size, total)
    # Stable, so that ties go to the earlier class on every machine.
    largest_first = np.argsort(-remainder, kind="stable")
    whole[largest_first[: size - int(whole.sum())]] += 1
    return whole


def stratified_choice(
    labels: np.ndarray, size: int, *, seed: int, argument: str = "size"
) -> np.ndarray:
    """Choose a seeded subset with the class proportions of the whole.

    Args:
        labels: int64 (N,).
        size: images to choose, 1 … N.
        seed: 0 … 2³² − 1.
        argument: the name by which an error calls ``size``.

    Returns:
        int64 (size,), increasing positions in ``labels``.

    Raises:
        ValueError: ``size`` is not in 1 … N.

    Example:
        >>> stratified_choice(np.array([0, 0, 0, 0, 1, 1]), 3, seed=0).shape
        (3,)
    """
    if not 1 <= size <= len(labels):
        raise ValueError(
            f"{argument}={size} images were asked for; accepted: 1 to {len(labels)}, "
            "the number there is."
        )
    classes, counts = np.unique(labels, return_counts=True)
    # RandomState, because NumPy promises that its numbers never change between releases.
    random = np.random.RandomState(seed)
    chosen = [
        random.permutation(np.flatnonzero(labels == each))[:share]
        for each, share in zip(classes, shares(counts, size), strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def three_way_split(
    labels: np.ndarray, *, validation: float = 0.15, test: float = 0.15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split every class into training, validation and test parts, always in the same way.

    Args:
        labels: int64 (N,), every class with at least three images.
        validation: share of each class for validation (at least one image).
        test: share of each class for the test (at least one image).

    Returns:
        Three increasing, disjoint int64 arrays of positions that together cover all N.
    """
    random = np.random.RandomState(SPLIT_SEED)
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for each in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == each))
        held_out = max(1, round(validation * len(members)))
        tested = max(1, round(test * len(members)))
        parts[1].append(members[:held_out])
        parts[2].append(members[held_out : held_out + tested])
        parts[0].append(members[held_out + tested :])
    train_part, validation_part, test_part = (np.sort(np.concatenate(part)) for part in parts)
    return train_part, validation_part, test_part
