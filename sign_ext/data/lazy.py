"""A data set whose images are listed but not read yet, and how a listing is split."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sign_ext.data.decode import (
    Conversions,
    Decoding,
    OnError,
    Unreadable,
    UnreadableImages,
    check_on_error,
    find_unreadable,
    read_readable,
    resize_images,
)
from sign_ext.data.image_set import ImageSet
from sign_ext.data.listing import DataSummary, count_classes
from sign_ext.data.source import ImageSource
from sign_ext.data.splits import (
    HELD_OUT_SHARE,
    SPLIT_SEED,
    Splits,
    SubsetSpec,
    stratified_choice,
    three_way_split,
)
from sign_ext.formatting import counted

SPLIT_NAMES: tuple[str, ...] = ("train", "validation", "test")
# Height and width of the images where a format does not fix them, as CIFAR-10's.
DEFAULT_SIZE = 32
# Larger labels are taken for mistakes: a name is made up for every class up to the largest label.
LARGEST_LABEL = 999_999
# Raise when the meaning of a fingerprint changes. Stores record it, so they refuse to resume then.
FINGERPRINT_VERSION = 1
# Identities are hashed in chunks: some are whole compressed images.
_FINGERPRINT_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class ImageIndex:
    """Images whose labels are known and whose pixels are read on demand.

    Args:
        labels: int64 (N,).
        read: positions (n,) → uint8 tensor (n, 3, size, size); several threads may call it.
        size: height and width of what ``read`` returns, in pixels.
        identities: positions (n,) → n byte strings that identify each image without decoding it:
            its encoded bytes, or what is known of them, such as their number.
        keys: positions (n,) → what the source calls each image; None where images have no names.
        resident_bytes: what the index holds in memory, or will hold, besides labels and names.
        conversions: which images were changed in decoding; None where none can be.
    """

    labels: np.ndarray
    read: Callable[[np.ndarray], Tensor]
    size: int
    identities: Callable[[np.ndarray], Iterable[bytes]]
    keys: Callable[[np.ndarray], list[str]] | None = None
    resident_bytes: int = 0
    conversions: Conversions | None = None


# A split: an index, and the increasing positions in it, int64 (N,), that belong to the split.
IndexedSplit = tuple[ImageIndex, np.ndarray]
# Training, validation and test, in this order.
IndexedSplits = tuple[IndexedSplit, IndexedSplit, IndexedSplit]


class LazyDataset:
    """The splits of a data set, reduced to the requested subsets: listed, but not read.

    Args:
        name: the data set's name; its splits are called ``name/train`` and so on.
        note: see `Splits`.
        class_names: one name a class.
        splits: training, validation and test.
        subset: subset sizes and image size.
        left_out: kind → number of files that are not among the images.
        cut: the parts that are cut out of the training images.
        hints: lines for whoever starts a command with this data.

    Raises:
        ValueError: a subset larger than its split.
    """

    def __init__(
        self,
        name: str,
        note: str,
        class_names: tuple[str, ...],
        splits: IndexedSplits,
        subset: SubsetSpec,
        *,
        left_out: Mapping[str, int] | None = None,
        cut: tuple[str, ...] = (),
        hints: tuple[str, ...] = (),
    ) -> None:
        """Choose the subsets, so that their sizes are checked before any image is decoded."""
        self.name = name
        self.note = note
        self.class_names = tuple(class_names)
        self.image_size = subset.image_size
        self._decoding = subset.decoding
        self._found = _summarize(name, note, class_names, splits, left_out or {}, cut, hints)
        self._subsets: dict[str, _Subset] = {}
        sizes = (subset.train_size, None, subset.test_size)
        for split, size, (index, positions) in zip(SPLIT_NAMES, sizes, splits, strict=True):
            chosen = np.arange(len(positions))
            if size is not None:
                chosen = stratified_choice(
                    index.labels[positions], size, seed=subset.seed, argument=f"{split}_size"
                )
            self._subsets[split] = _Subset(f"{name}/{split}", index, positions[chosen], chosen)

    def read(self, on_error: OnError = "fail") -> Splits:
        """Read all three splits into memory.

        Args:
            on_error: what to do about images that cannot be read: "fail", or "skip" and list them.

        Returns:
            The splits.

        Raises:
            UnreadableImages: images that cannot be read; it lists those of all splits.
            ValueError: another ``on_error``, or a split none of whose images can be read.
        """
        check_on_error(on_error)
        found: list[tuple[_Subset, Tensor | None, np.ndarray]] = []
        skipped: list[Unreadable] = []
        for split, subset in self._subsets.items():
            if on_error == "fail" and skipped:  # the others are only looked through
                problems = find_unreadable(subset.index.read, subset.positions)
            else:
                pixels, kept, problems = read_readable(subset.index.read, subset.positions)
                found.append((subset, pixels, kept))
            skipped += [subset.named(each, split) for each in problems]
        if skipped and on_error == "fail":
            raise UnreadableImages(skipped, 'Or leave such images out: on_error="skip".')
        train, validation, test = (self._image_set(*each) for each in found)
        return Splits(
            train, validation, test, self.name, self.note, self.summary(), skipped=tuple(skipped)
        )

    def _image_set(self, subset: _Subset, pixels: Tensor | None, kept: np.ndarray) -> ImageSet:
        """Make the set of those images of a split that could be read."""
        if pixels is None:
            raise ValueError(
                f"{subset.name}: none of its {counted(len(subset.positions), 'image')} can be "
                "read. Repair some of them."
            )
        return ImageSet(
            resize_images(pixels, self.image_size),
            torch.from_numpy(subset.labels()[kept]),
            self.class_names,
            subset.name,
        )

    def summary(self) -> DataSummary:
        """Return what the data set holds, and what was changed in the images decoded so far."""
        return _converted(self._found, tuple(self._subsets.values()))

    def source(self, split: str) -> ImageSource:
        """Open one split as a source that is read on demand.

        Args:
            split: ``"train"``, ``"validation"``, ``"test"``, or ``"all"`` for the three in this
                order.

        Returns:
            The source; it does not keep the other splits in memory.

        Raises:
            ValueError: another split.
        """
        if split not in (*SPLIT_NAMES, "all"):
            raise ValueError(f"split={split!r}; accepted: {', '.join(SPLIT_NAMES)}, all.")
        names = SPLIT_NAMES if split == "all" else (split,)
        return _concatenated_source(
            f"{self.name}/{split}",
            self.note,
            self.class_names,
            tuple(self._subsets[name] for name in names),
            self.image_size,
            self._decoding,
            self._found,
        )


@dataclass(frozen=True, eq=False)
class _Subset:
    """The chosen images of one split.

    Args:
        name: data set and split, e.g. ``"cifar10/train"``.
        index: the images that the split is part of.
        positions: int64 (N,), increasing positions in the index.
        numbers: int64 (N,), the images' positions in the whole split: their names where the index
            has none, so that an image is called the same in every subset.
    """

    name: str
    index: ImageIndex
    positions: np.ndarray
    numbers: np.ndarray

    def labels(self) -> np.ndarray:
        """Return the images' labels, int64 (N,)."""
        return self.index.labels[self.positions].astype(np.int64)

    def keys(self, span: slice) -> list[str]:
        """Return the keys of some of the images."""
        if self.index.keys is None:
            return [f"{self.name}/{number}" for number in self.numbers[span]]
        return self.index.keys(self.positions[span])

    def named(self, image: Unreadable, split: str) -> Unreadable:
        """Add to one of the images that cannot be read its key and its split."""
        key = self.keys(slice(image.index, image.index + 1))[0]
        return dataclasses.replace(image, key=key, split=split)


def _concatenated_source(
    name: str,
    note: str,
    class_names: tuple[str, ...],
    subsets: tuple[_Subset, ...],
    image_size: int | None,
    decoding: Decoding,
    found: DataSummary,
) -> ImageSource:
    """Join one or three subsets end to end."""
    ends = np.cumsum([len(subset.positions) for subset in subsets]).tolist()
    size = image_size or subsets[0].index.size

    def spans(start: int, stop: int) -> list[tuple[_Subset, slice]]:
        """Map positions start … stop − 1 of the source to spans of the subsets."""
        found = []
        for subset, end in zip(subsets, ends, strict=True):
            first = end - len(subset.positions)
            span = slice(max(start, first) - first, min(stop, end) - first)
            if span.start < span.stop:
                found.append((subset, span))
        return found

    def reader(start: int, stop: int) -> Tensor:
        pieces: list[Tensor] = []
        unreadable: list[Unreadable] = []
        before = 0
        for subset, span in spans(start, stop):
            try:
                pieces.append(resize_images(subset.index.read(subset.positions[span]), image_size))
            except UnreadableImages as error:
                unreadable += [
                    dataclasses.replace(each, index=before + each.index) for each in error.images
                ]
            before += span.stop - span.start
        if unreadable:
            raise UnreadableImages(unreadable)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def namer(start: int, stop: int) -> list[str]:
        return [key for subset, span in spans(start, stop) for key in subset.keys(span)]

    # Splits of one index share its memory, which counts once.
    indexes = {id(subset.index): subset.index for subset in subsets}
    return ImageSource(
        name,
        np.concatenate([subset.labels() for subset in subsets]),
        class_names,
        (3, size, size),
        _fingerprint(class_names, subsets, size, decoding),
        note,
        sum(index.resident_bytes for index in indexes.values()),
        reader,
        namer,
        lambda: _converted(found, subsets),
    )


def _summarize(
    name: str,
    note: str,
    class_names: tuple[str, ...],
    splits: IndexedSplits,
    left_out: Mapping[str, int],
    cut: tuple[str, ...],
    hints: tuple[str, ...],
) -> DataSummary:
    """Count the images of each part and class, before subsets are chosen."""
    labels = np.concatenate([index.labels[positions] for index, positions in splits])
    counts = np.bincount(labels, minlength=len(class_names)).tolist()
    parts = zip(SPLIT_NAMES, (len(positions) for _, positions in splits), strict=True)
    classes = count_classes(tuple(class_names), counts)
    left_out = {kind: count for kind, count in left_out.items() if count}
    return DataSummary(name, note, dict(parts), classes, left_out, {}, cut, hints)


def _converted(found: DataSummary, subsets: tuple[_Subset, ...]) -> DataSummary:
    """Add the number of images that were changed in decoding so far."""
    total: Counter[str] = Counter()
    for subset in subsets:
        if subset.index.conversions is not None:
            total.update(subset.index.conversions.counts(subset.positions))
    return dataclasses.replace(found, converted=dict(sorted(total.items())))


def _fingerprint(
    class_names: tuple[str, ...], subsets: tuple[_Subset, ...], size: int, decoding: Decoding
) -> str:
    """Hash what identifies the images, but not where they are stored or what that is called.

    Keys made of the data set's name would change with it, so positions in the index replace them.
    """
    counts = [len(subset.positions) for subset in subsets]
    head = {"version": FINGERPRINT_VERSION, "classes": class_names, "size": size, "images": counts}
    if decoding.bit_depth is not None:
        head["bit_depth"] = decoding.bit_depth  # which changes the pixels, not the files
    digest = hashlib.sha256(json.dumps(head).encode())
    for subset in subsets:
        digest.update(subset.labels().astype("<i8").tobytes())
        for start in range(0, len(subset.positions), _FINGERPRINT_CHUNK):
            span = slice(start, start + _FINGERPRINT_CHUNK)
            if subset.index.keys is None:
                keys = [str(position) for position in subset.positions[span]]
            else:
                keys = subset.keys(span)
            identities = subset.index.identities(subset.positions[span])
            for key, identity in zip(keys, identities, strict=True):
                name = key.encode("utf-8", "surrogateescape")
                # Lengths first, so that no two lists of names and identities hash alike.
                digest.update(b"%d %d;" % (len(name), len(identity)))
                digest.update(name)
                digest.update(identity)
    return digest.hexdigest()


def splits_from(
    indexes: dict[str, ImageIndex], class_names: tuple[str, ...], location: str
) -> IndexedSplits:
    """Make the three splits of what a path holds.

    Args:
        indexes: one index called ``""`` or ``"train"``, which is split here, or indexes called
            ``"train"`` and ``"validation"``, ``"test"`` or both. What is missing is cut out of the
            training images.
        class_names: one name a class.
        location: what an error message calls the data set.

    Returns:
        Training, validation and test.

    Raises:
        ValueError: too few images of a class.
    """
    if len(indexes) == 1:
        (index,) = indexes.values()
        _check_class_counts(index.labels, class_names, 3, location)
        return split_index(index)
    if len(indexes) < 3:
        _check_class_counts(indexes["train"].labels, class_names, 2, f"{location}, train")
    return predefined_splits(indexes["train"], indexes.get("validation"), indexes.get("test"))


def parts_cut(indexes: Iterable[str]) -> tuple[str, ...]:
    """Return the parts that `splits_from` cuts out of the training images.

    Args:
        indexes: the names of the indexes that it is given.
    """
    given = set(indexes)
    return tuple(split for split in ("validation", "test") if split not in given)


def split_index(index: ImageIndex) -> IndexedSplits:
    """Split an index 70/15/15 within each class, the same way every time.

    Args:
        index: at least three images of each class that occurs.

    Returns:
        Training, validation and test.
    """
    train, validation, test = three_way_split(index.labels)
    return (index, train), (index, validation), (index, test)


def predefined_splits(
    train: ImageIndex, validation: ImageIndex | None, test: ImageIndex | None
) -> IndexedSplits:
    """Keep splits as they come; what is missing is 15% of the training images, held out.

    Args:
        train: at least two images of each class that occurs if a split is missing.
        validation: the validation images, or None.
        test: the test images, or None; at most one of the two is None.

    Returns:
        Training, validation and test.
    """
    whole = np.arange(len(train.labels))
    held_out, rest = whole[:0], whole
    if validation is None or test is None:
        count = max(len(np.unique(train.labels)), round(HELD_OUT_SHARE * len(whole)))
        held_out = stratified_choice(train.labels, count, seed=SPLIT_SEED)
        rest = np.setdiff1d(whole, held_out)
    validation_part, test_part = (
        (train, held_out) if each is None else (each, np.arange(len(each.labels)))
        for each in (validation, test)
    )
    return (train, rest), validation_part, test_part


def _check_class_counts(
    labels: np.ndarray, class_names: tuple[str, ...], at_least: int, location: str
) -> None:
    """Raise ValueError if a class that occurs has too few images to be split."""
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        if count < at_least:
            raise ValueError(
                f"class {class_names[label]!r} has {counted(count, 'image')} in {location}; "
                f"accepted: at least {at_least}, since every class is split. Add images, or "
                "provide train, validation and test splits yourself."
            )
