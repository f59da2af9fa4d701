"""A data set that was found and listed, and of which no image was read yet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sign_ext.data.image_set import ImageSet
from sign_ext.data.resize import resize_images
from sign_ext.data.source import ImageSource
from sign_ext.data.splits import SPLIT_SEED, Splits, SubsetSpec, stratified_choice, three_way_split

# Images that lie somewhere, described without reading their pixels.


@dataclass(frozen=True, eq=False)
class ImageIndex:
    """Images whose labels are known and whose pixels are read on demand.

    Args:
        labels: int64 (N,).
        read: positions (n,) → uint8 tensor (n, 3, size, size); several threads may call it.
        size: height and width of what ``read`` returns, in pixels.
        identities: positions (n,) → n bytes strings that tell each image from another without
            decoding it: its encoded bytes, or what is known of them, such as their number.
        keys: positions (n,) → what the source calls each image; None where it has no names.
        resident_bytes: what the pool holds, or comes to hold, in memory besides labels and names.
    """

    labels: np.ndarray
    read: Callable[[np.ndarray], Tensor]
    size: int
    identities: Callable[[np.ndarray], Iterable[bytes]]
    keys: Callable[[np.ndarray], list[str]] | None = None
    resident_bytes: int = 0


# For training, validation and test in this order, a pool and increasing positions in it.
Parts = tuple[
    tuple[ImageIndex, np.ndarray], tuple[ImageIndex, np.ndarray], tuple[ImageIndex, np.ndarray]
]


SPLIT_NAMES: tuple[str, ...] = ("train", "validation", "test")
# Raise when a fingerprint's meaning changes.
FINGERPRINT_VERSION = 1
AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class Chosen:
    """The images of one split that are wanted.

    Args:
        split: ``"train"``, ``"validation"`` or ``"test"``.
        pool: where they lie.
        where: int64 (N,), increasing positions in the pool.
        places: int64 (N,), their positions in the whole split, before a subset was chosen.
        prefix: data set and split, e.g. ``"cifar10/train"``.
    """

    split: str
    pool: ImageIndex
    where: np.ndarray
    places: np.ndarray
    prefix: str

    def labels(self) -> np.ndarray:
        """Return the images' labels, int64 (N,)."""
        return self.pool.labels[self.where].astype(np.int64)

    def keys(self, span: slice) -> list[str]:
        """Return the names of some of the images, or their places where they have none."""
        if self.pool.keys is None:
            return [f"{self.prefix}/{place}" for place in self.places[span]]
        return self.pool.keys(self.where[span])


class LazyDataset:
    """The wanted parts of a data set, listed but not read.

    Args:
        name: the data set's name; splits are called ``name/train`` and so on.
        note: see `Splits`.
        class_names: one name a class.
        parts: for training, validation and test in this order, a pool and positions in it.
        wanted: subset sizes and image size.

    Raises:
        ValueError: a subset larger than its part.
    """

    def __init__(
        self, name: str, note: str, class_names: tuple[str, ...], parts: Parts, wanted: SubsetSpec
    ) -> None:
        """Choose the subsets, so that sizes are checked before the first image is decoded."""
        self.name = name
        self.note = note
        self.class_names = tuple(class_names)
        self.image_size = wanted.image_size
        self._chosen: dict[str, Chosen] = {}
        sizes = (wanted.train_size, None, wanted.test_size)
        for split, size, (pool, where) in zip(SPLIT_NAMES, sizes, parts, strict=True):
            places = np.arange(len(where))
            if size is not None:
                places = stratified_choice(
                    pool.labels[where], size, seed=wanted.seed, argument=f"{split}_size"
                )
            self._chosen[split] = Chosen(split, pool, where[places], places, f"{name}/{split}")

    def read(self) -> Splits:
        """Read all three parts into memory.

        Returns:
            The splits.

        Raises:
            ValueError: an image that cannot be read.
        """
        train, validation, test = (
            ImageSet(
                resize_images(chosen.pool.read(chosen.where), self.image_size),
                torch.from_numpy(chosen.labels()),
                self.class_names,
                chosen.prefix,
            )
            for chosen in self._chosen.values()
        )
        return Splits(train, validation, test, self.name, self.note)

    def source(self, split: str) -> ImageSource:
        """Give one part as a source that is read on demand.

        Args:
            split: ``"train"``, ``"validation"``, ``"test"``, or ``"all"`` for the three in this
                order.

        Returns:
            The source; it does not keep the other parts in memory.

        Raises:
            ValueError: another split.
        """
        if split not in (*SPLIT_NAMES, "all"):
            raise ValueError(f"split={split!r}; accepted: {', '.join(SPLIT_NAMES)}, all.")
        names = SPLIT_NAMES if split == "all" else (split,)
        return _source(
            f"{self.name}/{split}",
            self.note,
            self.class_names,
            tuple(self._chosen[each] for each in names),
            self.image_size,
        )


def _source(
    name: str,
    note: str,
    class_names: tuple[str, ...],
    chosen: tuple[Chosen, ...],
    image_size: int | None,
) -> ImageSource:
    """Join one or three parts end to end."""
    ends = np.cumsum([len(each.where) for each in chosen]).tolist()
    size = image_size or chosen[0].pool.size

    def pieces(start: int, stop: int) -> list[tuple[Chosen, slice]]:
        """Which span of which part each stretch of the positions start … stop − 1 is."""
        found = []
        for each, end in zip(chosen, ends, strict=True):
            first = end - len(each.where)
            span = slice(max(start, first) - first, min(stop, end) - first)
            if span.start < span.stop:
                found.append((each, span))
        return found

    def reader(start: int, stop: int) -> Tensor:
        read = [
            resize_images(each.pool.read(each.where[span]), image_size)
            for each, span in pieces(start, stop)
        ]
        return read[0] if len(read) == 1 else torch.cat(read)

    def namer(start: int, stop: int) -> list[str]:
        return [key for each, span in pieces(start, stop) for key in each.keys(span)]

    pools = {id(each.pool): each.pool for each in chosen}
    return ImageSource(
        name,
        np.concatenate([each.labels() for each in chosen]),
        class_names,
        (3, size, size),
        _fingerprint(class_names, chosen, size),
        note,
        sum(pool.resident_bytes for pool in pools.values()),
        reader,
        namer,
    )


def _fingerprint(class_names: tuple[str, ...], chosen: tuple[Chosen, ...], size: int) -> str:
    """Hash what tells the images from others; where they lie and what that is called is left out.

    Names that a source has not are made of its own name, so the positions take their place.
    """
    counts = [len(each.where) for each in chosen]
    head = {"version": FINGERPRINT_VERSION, "classes": class_names, "size": size, "images": counts}
    digest = hashlib.sha256(json.dumps(head).encode())
    for each in chosen:
        digest.update(each.labels().astype("<i8").tobytes())
        for start in range(0, len(each.where), AT_ONCE):
            span = slice(start, start + AT_ONCE)
            if each.pool.keys is None:
                keys = [str(position) for position in each.where[span]]
            else:
                keys = each.keys(span)
            identities = each.pool.identities(each.where[span])
            for key, identity in zip(keys, identities, strict=True):
                name = key.encode("utf-8", "surrogateescape")
                # Lengths first, so that no two lists of names and identities read the same.
                digest.update(b"%d %d;" % (len(name), len(identity)))
                digest.update(name)
                digest.update(identity)
    return digest.hexdigest()


# What of a data set without a published split is for training, validation and test.


VALIDATION_SHARE = 0.15
# A label beyond is a slip; as many class names would be made up for it.
LARGEST_LABEL = 999_999


def parts_of(pools: dict[str, ImageIndex], names: tuple[str, ...], where: str) -> Parts:
    """Make training, validation and test part of what was found.

    Args:
        pools: one pool called ``""`` to be divided, or pools called ``"train"``, ``"test"`` and, if
            there is one, ``"validation"`` or ``"val"``.
        names: one name a class.
        where: what an error calls the data set.

    Returns:
        Training, validation and test part.

    Raises:
        ValueError: too few images of a class.
    """
    if "" in pools:
        check_labels(pools[""].labels, names, 3, where)
        return divided(pools[""])
    held = pools.get("validation", pools.get("val"))
    if held is None:
        check_labels(pools["train"].labels, names, 2, f"{where}, train")
    return given(pools["train"], held, pools["test"])


def divided(pool: ImageIndex) -> Parts:
    """Split one pool 70/15/15 within each class, always in the same way.

    Args:
        pool: at least three images of each class that there is.

    Returns:
        Training, validation and test part.
    """
    train, validation, test = three_way_split(pool.labels)
    return (pool, train), (pool, validation), (pool, test)


def given(train: ImageIndex, validation: ImageIndex | None, test: ImageIndex) -> Parts:
    """Keep parts as they were given; hold out 15% of the training images if one is missing.

    Args:
        train: at least two images of each class that there is, if there is no validation pool.
        validation: as given, or None.
        test: as given.

    Returns:
        Training, validation and test part.
    """
    every, test_part = np.arange(len(train.labels)), (test, np.arange(len(test.labels)))
    if validation is not None:
        return (train, every), (validation, np.arange(len(validation.labels))), test_part
    count = max(len(np.unique(train.labels)), round(VALIDATION_SHARE * len(every)))
    held_out = stratified_choice(train.labels, count, seed=SPLIT_SEED)
    return (train, np.setdiff1d(every, held_out)), (train, held_out), test_part


def check_labels(labels: np.ndarray, names: tuple[str, ...], at_least: int, where: str) -> None:
    """Raise ValueError if a class has some images, but too few to be split.

    Args:
        labels: int64 (N,).
        names: one name a class.
        at_least: how many images of a class there must be, if there are any.
        where: what the message calls the labels' source.
    """
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        if count < at_least:
            raise ValueError(
                f"class {names[label]!r} has {count} images in {where}; accepted: at least "
                f"{at_least}, to be split by class. Add images, or give train, validation and "
                "test apart."
            )
