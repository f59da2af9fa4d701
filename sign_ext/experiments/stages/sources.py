"""Which images a stage works on, as plain values that can be hashed, and reading them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from sign_ext.data import ImageSet, Splits, fingerprint, load_data
from sign_ext.data.splits import SPLIT_SEED, stratified_choice
from sign_ext.formatting import ADDED, counted


@dataclass(frozen=True)
class Source:
    """A data set, cut to sizes; validation and test images are the same for every seed.

    Attributes:
        data: a name or folder for `load_data`.
        train_size: training images; None takes all.
        validation_size: validation images; None takes all.
        test_size: test images; None takes all.
        image_size: height and width in pixels; None takes the data set's.
        fingerprint: of the pixels and labels as read, so that other files under the same name
            count as other data; "" until they are read.
        seed: chooses the training images among all, where `train_size` leaves some out.
    """

    data: str
    train_size: int | None = None
    validation_size: int | None = None
    test_size: int | None = None
    image_size: int | None = None
    fingerprint: str = ""
    seed: int = dataclasses.field(default=0, metadata=ADDED)


class Sources:
    """Reads and fingerprints each source once.

    Args:
        root: folder of the data sets' files.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        """Read nothing yet."""
        self.root = root
        self._splits: dict[Source, Splits] = {}
        self._fingerprints: dict[Source, str] = {}

    def read(self, source: Source) -> Splits:
        """The splits of a source, whether its fingerprint is filled in or not."""
        plain = dataclasses.replace(source, fingerprint="")
        if plain not in self._splits:
            splits = read_source(plain, self.root)
            if source.seed:  # what is the same for all seeds is in memory once
                first = self.read(dataclasses.replace(plain, seed=0))
                splits = dataclasses.replace(first, train=splits.train)
            self._splits[plain] = splits
        return self._splits[plain]

    def with_fingerprint(self, source: Source) -> Source:
        """The source with its fingerprint filled in, which reads the images."""
        plain = dataclasses.replace(source, fingerprint="")
        if plain not in self._fingerprints:
            splits = self.read(plain)
            parts = (splits.train, splits.validation, splits.test)
            self._fingerprints[plain] = "-".join(fingerprint(part)[:12] for part in parts)
        return dataclasses.replace(plain, fingerprint=self._fingerprints[plain])

    def notes(self) -> tuple[str, ...]:
        """One line for each data set read: what it is, and how many of its images are used."""
        lines = (
            f"{splits.note}; used: {len(splits.train):,} training, {len(splits.validation):,} "
            f"validation, {counted(len(splits.test), 'test image')} at {splits.image_shape[1]}×"
            f"{splits.image_shape[2]}"
            for splits in self._splits.values()
        )
        return tuple(dict.fromkeys(lines))  # once for all seeds


def read_source(source: Source, root: str | Path | None) -> Splits:
    """Read a source's splits; the validation set is cut to size with its class proportions.

    Args:
        source: what to read.
        root: folder of the data sets' files.

    Raises:
        ValueError: a size that the data set cannot give.
    """
    splits = load_data(
        source.data,
        root,
        seed=source.seed,
        train_size=source.train_size,
        test_size=source.test_size,
        image_size=source.image_size,
    )
    if source.validation_size is None:
        return splits
    return dataclasses.replace(
        splits, validation=_subset(splits.validation, source.validation_size, "validation_size")
    )


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """Evenly spaced positions: `wanted` of `count`.

    Example:
        >>> evenly_spaced(10, 3)
        [0, 3, 6]
    """
    return [place * count // wanted for place in range(wanted)]


def _subset(images: ImageSet, size: int, argument: str) -> ImageSet:
    chosen = stratified_choice(images.labels.numpy(), size, seed=SPLIT_SEED, argument=argument)
    return images.subset(chosen.tolist())
