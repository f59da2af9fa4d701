"""Which images a stage works on, in words that can be hashed, and reading them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from sign_ext.data import ImageSet, Splits, fingerprint, load_data
from sign_ext.data.splits import SPLIT_SEED, stratified_choice


@dataclass(frozen=True)
class Source:
    """A data set, cut to sizes; the subsets are the same for every seed of an experiment.

    Attributes:
        data: a name or folder for `load_data`.
        train_size: training images; None takes all.
        validation_size: validation images; None takes all.
        test_size: test images; None takes all.
        image_size: height and width in pixels; None takes the data set's.
        fingerprint: of the pixels and labels that were read, so that other files under the same
            name are other data; "" before they are.
    """

    data: str
    train_size: int | None = None
    validation_size: int | None = None
    test_size: int | None = None
    image_size: int | None = None
    fingerprint: str = ""


class Sources:
    """Reads each source once and tells its fingerprint.

    Args:
        root: folder of the data sets' files.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        """Read nothing yet."""
        self.root = root
        self._read: dict[Source, Splits] = {}
        self._prints: dict[Source, str] = {}

    def read(self, source: Source) -> Splits:
        """The splits of a source, whether its fingerprint is filled in or not."""
        plain = dataclasses.replace(source, fingerprint="")
        if plain not in self._read:
            self._read[plain] = read_source(plain, self.root)
        return self._read[plain]

    def notes(self) -> tuple[str, ...]:
        """What the sets that were read really are, with the number of images that were used."""
        return tuple(
            f"{splits.note}; used: {len(splits.train):,} training, {len(splits.validation):,} "
            f"validation, {len(splits.test):,} test images at {splits.image_shape[1]}×"
            f"{splits.image_shape[2]}"
            for splits in self._read.values()
        )

    def resolved(self, source: Source) -> Source:
        """The source with its fingerprint filled in."""
        plain = dataclasses.replace(source, fingerprint="")
        if plain not in self._prints:
            splits = self.read(plain)
            parts = (splits.train, splits.validation, splits.test)
            self._prints[plain] = "-".join(fingerprint(part)[:12] for part in parts)
        return dataclasses.replace(plain, fingerprint=self._prints[plain])


def read_source(source: Source, root: str | Path | None) -> Splits:
    """Read a source's splits, the validation set cut to size with the classes' proportions.

    Args:
        source: what to read.
        root: folder of the data sets' files.

    Raises:
        ValueError: a size that cannot be had.
    """
    splits = load_data(
        source.data,
        root,
        train_size=source.train_size,
        test_size=source.test_size,
        image_size=source.image_size,
    )
    if source.validation_size is None:
        return splits
    return dataclasses.replace(
        splits, validation=_some(splits.validation, source.validation_size, "validation_size")
    )


def _some(images: ImageSet, size: int, argument: str) -> ImageSet:
    chosen = stratified_choice(images.labels.numpy(), size, seed=SPLIT_SEED, argument=argument)
    return images.subset(chosen.tolist())
