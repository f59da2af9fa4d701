"""Folders of images: one sub-folder a class, with or without folders for the splits."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
from torch import Tensor

from sign_ext.data.decode import EXTENSIONS, FORMATS, decode_all, decode_file
from sign_ext.data.lazy import (
    DEFAULT_SIZE,
    ImageIndex,
    IndexedSplits,
    LazyDataset,
    predefined_splits,
    split_index,
)
from sign_ext.data.splits import SubsetSpec

ACCEPTED = (
    "accepted: ROOT/CLASS/images, or ROOT/train/CLASS/images with ROOT/test and, optionally, "
    "ROOT/validation (or ROOT/val)"
)
_ADVICE = "Repair it or remove it from the folder."


def open_image_folder(root: Path, subset: SubsetSpec) -> LazyDataset:
    """List the images of a folder; they are resized to squares when they are read.

    ROOT/CLASS/… is split 70/15/15 within each class. With ROOT/train/CLASS/… the folders test and
    validation (or val) are used as they are; without a validation folder 15% of the training images
    are held out. The splits depend on the file names only and never change.

    Args:
        root: the folder; images are found at any depth, in the order of their paths.
        subset: subset sizes and image size (default 32; the aspect ratio is not kept).

    Returns:
        The data set, named after the folder; classes are in the order of their names.

    Raises:
        ValueError: another folder structure, too few images, or a subset too large.
    """
    size = subset.image_size or DEFAULT_SIZE
    if subfolders(root / "train"):
        splits, class_names, ignored = _predefined(root, size)
    else:
        class_names = tuple(subfolders(root))
        if not class_names:
            raise ValueError(f"{root} has no class folders; {ACCEPTED}.")
        index, ignored = _index(root, "", class_names, size, at_least=3)
        splits = split_index(index)
    total = sum(len(positions) for _, positions in splits)
    note = f"images of {root.name} ({total:,} in {len(class_names)} classes, resized to "
    note += f"{size}×{size}; {ignored:,} other files ignored)" if ignored else f"{size}×{size})"
    return LazyDataset(root.resolve().name, note, class_names, splits, subset)


def subfolders(folder: Path) -> list[str]:
    """Return the names of the visible folders in a folder, sorted; none if it does not exist.

    Args:
        folder: the folder.
    """
    if not folder.is_dir():
        return []
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )


def _predefined(root: Path, size: int) -> tuple[IndexedSplits, tuple[str, ...], int]:
    """List ROOT/train, ROOT/test and ROOT/validation or ROOT/val; also count ignored files."""
    names = subfolders(root)
    unknown = [name for name in names if name not in ("train", "validation", "val", "test")]
    if unknown or "test" not in names or {"validation", "val"} <= set(names):
        raise ValueError(f"{root} holds the folders {names}; {ACCEPTED}.")
    class_names = tuple(subfolders(root / "train"))
    for name in names:
        if subfolders(root / name) != list(class_names):
            raise ValueError(
                f"{root / name} has the classes {subfolders(root / name)}, {root / 'train'} has "
                f"{list(class_names)}; accepted: the same class folders in every split."
            )
    val = next((name for name in ("validation", "val") if name in names), None)
    # Without a validation folder, each class is split, so one image of it is not enough.
    train, in_train = _index(root, "train/", class_names, size, at_least=1 if val else 2)
    test, in_test = _index(root, "test/", class_names, size, at_least=1)
    if val is None:
        return predefined_splits(train, None, test), class_names, in_train + in_test
    validation, in_val = _index(root, f"{val}/", class_names, size, at_least=1)
    splits = predefined_splits(train, validation, test)
    return splits, class_names, in_train + in_test + in_val


def _index(
    root: Path, prefix: str, class_names: tuple[str, ...], size: int, *, at_least: int
) -> tuple[ImageIndex, int]:
    """List the images of each class below ROOT/PREFIX; also count the files that are not images."""
    paths: list[str] = []
    labels: list[int] = []
    file_sizes: list[int] = []
    ignored = 0
    for label, name in enumerate(class_names):
        folder = root / prefix / name
        images, others = _list_images(folder, f"{prefix}{name}")
        if len(images) < at_least:
            raise ValueError(
                f"class {name!r} has {len(images)} images in {folder}; accepted: at least "
                f"{at_least}, with one of the extensions {', '.join(EXTENSIONS)}."
            )
        paths += [path for path, _ in images]
        file_sizes += [file_size for _, file_size in images]
        labels += [label] * len(images)
        ignored += others

    def read(positions: np.ndarray) -> Tensor:
        def decode(number: int) -> np.ndarray:
            return decode_file(root / paths[positions[number]], size, _ADVICE, FORMATS)

        return decode_all(len(positions), size, decode)

    def keys(positions: np.ndarray) -> list[str]:
        return [paths[position] for position in positions]

    def identities(positions: np.ndarray) -> list[bytes]:
        return [b"%d" % file_sizes[position] for position in positions]

    return ImageIndex(np.asarray(labels, dtype=np.int64), read, size, identities, keys), ignored


def _list_images(folder: Path, name: str) -> tuple[list[tuple[str, int]], int]:
    """List (path, bytes) of the images at any depth of a folder by path; count other files.

    Paths begin with `name`, and are strings rather than Path objects, so that a listing of millions
    takes a few hundred MB.
    """
    images: list[tuple[str, int]] = []
    others = 0
    for directory, _, files in os.walk(folder):
        relative = Path(directory).relative_to(folder).as_posix()
        prefix = f"{name}/" if relative == "." else f"{name}/{relative}/"
        for file in files:
            try:
                status = os.stat(os.path.join(directory, file))
            except OSError:  # a dangling link
                continue
            if not stat.S_ISREG(status.st_mode):
                continue
            if os.path.splitext(file)[1].lower() in EXTENSIONS and not file.startswith("."):
                images.append((prefix + file, status.st_size))
            else:
                others += 1
    return sorted(images), others
