"""Training, validation and test set of one data set, and how much of each is wanted."""

from __future__ import annotations

from dataclasses import dataclass

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
