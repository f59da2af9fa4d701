"""Training, validation and test splits: their sizes, and the stratified choices that make them."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

import numpy as np

from sign_ext.data.decode import Decoding, Unreadable
from sign_ext.data.image_set import ImageSet
from sign_ext.data.listing import DataSummary, count_classes

# The splits are part of an experiment's definition, so neither their seed nor the share of the
# images that is held out is an option.
SPLIT_SEED = 0
HELD_OUT_SHARE = 0.15


@dataclass(frozen=True, eq=False)
class Splits:
    """The three splits of a data set.

    Args:
        train: what a model is fitted to.
        validation: what selects epochs and settings.
        test: what results are reported on, used once.
        name: the data set's name.
        note: what the data really is, one line for reports.
        found: what the files hold, before subsets; None for images that come from no files.
        skipped: the images that could not be read and were left out, in the order of the splits;
            ``index`` is the position in the whole split, with them.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    name: str
    note: str
    found: DataSummary | None = None
    skipped: tuple[Unreadable, ...] = ()

    @property
    def summary(self) -> DataSummary:
        """The classes and parts with their numbers of images, and what was left out."""
        if self.found is not None:
            return self.found
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        labels = np.concatenate([part.labels.numpy() for part in parts.values()])
        counts = np.bincount(labels, minlength=len(self.class_names)).tolist()
        return DataSummary(
            self.name,
            self.note,
            {name: len(part) for name, part in parts.items()},
            count_classes(self.class_names, counts),
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names, in label order."""
        return self.train.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of one image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def part(self, name: str) -> ImageSet:
        """The split called "train", "validation" or "test", or "all": the three in this order.

        Args:
            name: one of these.
        """
        if name == "all":
            parts = [self.train, self.validation, self.test]
            return ImageSet.concatenate(parts, f"{self.name}/all")
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    def skipped_in(self, name: str) -> list[int]:
        """Positions, among the images of a split or of "all", of those that could not be read.

        Args:
            name: as for `part`.
        """
        if name != "all":
            return [each.index for each in self.skipped if each.split == name]
        found: list[int] = []
        first = 0
        for split in ("train", "validation", "test"):
            skipped = self.skipped_in(split)
            found += [first + index for index in skipped]
            first += len(self.part(split)) + len(skipped)
        return found


@dataclass(frozen=True)
class SubsetSpec:
    """How much of a data set to read, and at what image size.

    Args:
        train_size: number of training images, a stratified seeded subset; None for all.
        test_size: the same for the test split.
        seed: chooses the subsets; the splits themselves never change.
        image_size: height and width in pixels; None for the data set's own.
        decoding: bit depth and number of pixels of images to accept.

    Raises:
        ValueError: an image size or a seed out of range.
    """

    train_size: int | None = None
    test_size: int | None = None
    seed: int = 0
    image_size: int | None = None
    decoding: Decoding = dataclasses.field(default_factory=Decoding)

    def __post_init__(self) -> None:
        """Check the values before any file is opened."""
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size={self.image_size}; accepted: 1 or more pixels.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed}; accepted: 0 to 2**32 − 1.")


# What folders and splits of a data set are called, in any case: train, Training, training_set,
# valid, val2017, TEST images. A common prefix is allowed where two or more share it: seg_train.
_WORDS = {
    "train": "train(?:ing)?|trn",
    "validation": "val|valid(?:ation|ate)?|dev(?:el(?:opment)?)?",
    "test": "test(?:ing)?|tst|eval(?:uation)?|hold[-_ ]?out",
}
_SPLIT_NAME = re.compile(
    "(?:(?P<prefix>.+?)[-_. ]+)?(?:"
    + "|".join(f"(?P<{split}>{words})" for split, words in _WORDS.items())
    + r")(?:[-_. ]?(?:set|data|dataset|split|part|folder|images?|imgs?))?(?:[-_. ]?(?:19|20)\d\d)?",
    re.IGNORECASE,
)


def split_names(names: list[str]) -> dict[str, str]:
    """Find the names of splits among some names, in their common spellings.

    Args:
        names: of folders, or of a data set's splits.

    Returns:
        Name → ``"train"``, ``"validation"`` or ``"test"``, for those names that are a split's.

    Example:
        >>> split_names(["Training", "cat", "VAL", "test_set"])
        {'Training': 'train', 'VAL': 'validation', 'test_set': 'test'}
        >>> split_names(["seg_train", "seg_test"]), split_names(["toy_train", "toy_car"])
        ({'seg_train': 'train', 'seg_test': 'test'}, {})
    """
    found: dict[str, tuple[str, str]] = {}
    for name in names:
        match = _SPLIT_NAME.fullmatch(name.strip())
        if match is not None:
            split = next(split for split in _WORDS if match[split] is not None)
            found[name] = (split, (match["prefix"] or "").lower())
    prefixes = {
        prefix: {s for s, other in found.values() if other == prefix}
        for _, prefix in found.values()
    }
    return {
        name: split
        for name, (split, prefix) in found.items()
        if not prefix or len(prefixes[prefix]) > 1
    }


def shares(counts: np.ndarray, size: int) -> np.ndarray:
    """Divide ``size`` images over classes in proportion to their counts (largest remainder).

    Args:
        counts: int64 (classes,), the number of images of each class.
        size: how many images to divide, at most ``counts.sum()``.

    Returns:
        int64 (classes,) that sums to ``size``; equal counts give shares that differ by at most one.
    """
    total = int(counts.sum())
    whole, remainder = np.divmod(counts.astype(np.int64) * size, total)
    # A stable sort, so that ties go to the lower label on every machine.
    largest_first = np.argsort(-remainder, kind="stable")
    whole[largest_first[: size - int(whole.sum())]] += 1
    return whole


def stratified_choice(
    labels: np.ndarray, size: int, *, seed: int, argument: str = "size"
) -> np.ndarray:
    """Choose a seeded subset with the class proportions of the whole.

    Args:
        labels: int64 (N,).
        size: number of images to choose, 1 … N.
        seed: 0 … 2³² − 1.
        argument: what an error message calls ``size``.

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
            f"{argument}={size}; accepted: 1 to {len(labels)}, the number of images to choose from."
        )
    classes, counts = np.unique(labels, return_counts=True)
    # RandomState, whose stream NumPy guarantees never to change between releases.
    random = np.random.RandomState(seed)
    chosen = [
        random.permutation(np.flatnonzero(labels == label))[:share]
        for label, share in zip(classes, shares(counts, size), strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def three_way_split(
    labels: np.ndarray, *, validation: float = HELD_OUT_SHARE, test: float = HELD_OUT_SHARE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split every class into training, validation and test, the same way every time.

    Args:
        labels: int64 (N,), with at least three images of each class.
        validation: share of each class for validation (at least one image).
        test: share of each class for the test (at least one image).

    Returns:
        Three increasing, disjoint int64 arrays of positions that together cover all N.
    """
    random = np.random.RandomState(SPLIT_SEED)
    splits: tuple[list[np.ndarray], ...] = ([], [], [])
    for label in np.unique(labels):
        positions = random.permutation(np.flatnonzero(labels == label))
        in_validation = max(1, round(validation * len(positions)))
        in_test = max(1, round(test * len(positions)))
        splits[1].append(positions[:in_validation])
        splits[2].append(positions[in_validation : in_validation + in_test])
        splits[0].append(positions[in_validation + in_test :])
    train, held_out, tested = (np.sort(np.concatenate(split)) for split in splits)
    return train, held_out, tested
