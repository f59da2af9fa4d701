"""A split of a data set whose pixels are read on demand, for data sets larger than memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sign_ext.data.decode import Unreadable, find_unreadable, read_readable
from sign_ext.data.image_set import ImageSet, fingerprint
from sign_ext.data.listing import DataSummary, count_classes

# Of targets that are not one class an image: what both safetensors and NumPy have.
TARGET_DTYPES = {
    "bool": torch.bool,
    "uint8": torch.uint8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "float32": torch.float32,
    "float64": torch.float64,
}


@dataclass(frozen=True, eq=False)
class Targets:
    """Targets that are not one class an image: several classes, numbers, or a value a pixel.

    Args:
        dtype: of the targets.
        shape: of one image's target.
        read: positions, int64 (n,) → targets (n, *shape).
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[Tensor], Tensor] = dataclasses.field(repr=False)


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Images that are read on demand, with what is known of them before any is decoded.

    Only the labels, the names and ``resident_bytes`` are held in memory; images that were read are
    not cached. `open_data` makes one.

    Args:
        name: data set and split, e.g. ``"cifar10/train"``.
        labels: int64 (N,); all 0 where there are ``targets`` instead.
        class_names: one name a class, in label order; () if ``targets`` are not of classes.
        image_shape: (3, H, W), in pixels.
        fingerprint: 64 hexadecimal digits that change with any label or key, the class names, the
            image size, and what identifies each image without decoding it (docs/data.md).
        note: what the data really is, one line for reports.
        resident_bytes: memory that the source itself holds: 0 for folders, tars and Hugging Face
            folders; all pixels of data sets that are decoded at once; at most two row groups of
            Parquet files.
        reader: (start, stop) → uint8 (stop − start, 3, H, W); only called with start < stop.
        namer: (start, stop) → stop − start keys.
        summarize: what `summary` returns; None for images that come from no files.
        targets: what the images have in place of one class each; None where they have that.

    Example:
        >>> from sign_ext.data import open_data
        >>> source = open_data("digits", split="validation")
        >>> len(source), tuple(source.read(100, 105).shape), source.keys(0, 2)
        (269, (5, 3, 32, 32), ['digits/validation/0', 'digits/validation/1'])
    """

    name: str
    labels: np.ndarray
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    fingerprint: str
    note: str
    resident_bytes: int
    reader: Callable[[int, int], Tensor] = dataclasses.field(repr=False)
    namer: Callable[[int, int], list[str]] = dataclasses.field(repr=False)
    summarize: Callable[[], DataSummary] | None = dataclasses.field(default=None, repr=False)
    targets: Targets | None = None

    @classmethod
    def in_memory(cls, images: ImageSet, note: str = "") -> ImageSource:
        """Make a source from images that are already in memory.

        Args:
            images: uint8.
            note: what the data really is.
        """

        def read(start: int, stop: int) -> Tensor:
            return images.images[start:stop].clone()

        def name(start: int, stop: int) -> list[str]:
            return [f"{images.name}/{position}" for position in range(start, stop)]

        channels, height, width = images.images.shape[1:]
        return cls(
            images.name,
            images.labels.numpy(),
            images.class_names,
            (channels, height, width),
            fingerprint(images),
            note,
            images.images.numel(),
            read,
            name,
        )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def targets_of(self, positions: Tensor) -> Tensor:
        """Return the targets of some images.

        Args:
            positions: int64 (n,).

        Returns:
            int64 (n,), classes; or (n, …) as ``targets`` says.
        """
        if self.targets is not None:
            return self.targets.read(positions)
        return torch.from_numpy(self.labels[positions.numpy()])

    def summary(self) -> DataSummary:
        """Return what the whole data set holds, and what was changed in the images read so far."""
        if self.summarize is not None:
            return self.summarize()
        counts = np.bincount(self.labels, minlength=len(self.class_names)).tolist()
        classes = count_classes(self.class_names, counts)
        return DataSummary(self.name, self.note, {self.name: len(self)}, classes)

    def read(self, start: int, stop: int) -> Tensor:
        """Decode some images; several threads may do so at once.

        Args:
            start: position of the first image.
            stop: position after the last image; start ≤ stop ≤ N.

        Returns:
            uint8 (stop − start, 3, H, W), pixel units 0–255.

        Raises:
            IndexError: positions out of range.
            ValueError: an image that cannot be read, or whose file is gone; the message names it,
                and all others of this range.
        """
        self._check(start, stop)
        if start == stop:
            return torch.empty(0, *self.image_shape, dtype=torch.uint8)
        return self.reader(start, stop)

    def read_readable(self, start: int, stop: int) -> tuple[Tensor, list[int], list[Unreadable]]:
        """Decode those of some images that can be read.

        Args:
            start: position of the first image.
            stop: position after the last image; start ≤ stop ≤ N.

        Returns:
            uint8 (n, 3, H, W); the positions of these images; and the others, with their positions
            and keys.
        """
        self._check(start, stop)
        pixels, kept, problems = read_readable(self._read_at, np.arange(start, stop))
        if pixels is None:
            pixels = torch.empty(0, *self.image_shape, dtype=torch.uint8)
        return pixels, (start + kept).tolist(), self._named(start, problems)

    def find_unreadable(self, start: int, stop: int) -> list[Unreadable]:
        """List those of some images that cannot be read, with their positions and keys.

        Args:
            start: position of the first image.
            stop: position after the last image; start ≤ stop ≤ N.
        """
        self._check(start, stop)
        return self._named(start, find_unreadable(self._read_at, np.arange(start, stop)))

    def _named(self, start: int, problems: list[Unreadable]) -> list[Unreadable]:
        """Turn indices into positions, and add the keys."""
        positions = [start + each.index for each in problems]
        return [
            dataclasses.replace(each, index=position, key=self.keys(position, position + 1)[0])
            for each, position in zip(problems, positions, strict=True)
        ]

    def _read_at(self, positions: np.ndarray) -> Tensor:
        """Decode images at increasing positions, each run of neighbours at once."""
        breaks = np.flatnonzero(np.diff(positions) > 1) + 1
        runs = np.split(positions, breaks)
        pieces = [self.reader(int(run[0]), int(run[-1]) + 1) for run in runs]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def keys(self, start: int, stop: int) -> list[str]:
        """Return the names of some images.

        Args:
            start: position of the first image.
            stop: position after the last image; start ≤ stop ≤ N.

        Returns:
            For a folder the paths relative to it, for tars the samples' keys (unique within a tar),
            otherwise data set, split and position in the whole split, also in a subset.

        Raises:
            IndexError: positions out of range.
        """
        self._check(start, stop)
        return self.namer(start, stop)

    def read_all(self) -> ImageSet:
        """Read every image into memory.

        Returns:
            The images with their labels.

        Raises:
            TypeError: there are ``targets`` in place of classes.
            ValueError: an image that cannot be read.
        """
        if self.targets is not None:
            raise TypeError(
                f"{self.name} has targets of {self.targets.dtype} {self.targets.shape}, and an "
                "ImageSet holds one class an image: use read and targets_of"
            )
        labels = torch.from_numpy(self.labels.copy())
        return ImageSet(self.read(0, len(self)), labels, self.class_names, self.name)

    def _check(self, start: int, stop: int) -> None:
        """Raise IndexError for positions out of range, which slices would silently clip."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(
                f"start={start}, stop={stop} of {self.name}; accepted: 0 ≤ start ≤ stop ≤ "
                f"{len(self)}, its number of images."
            )
