"""Any folder of images: one sub-folder a class, with or without folders for the splits."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
from torch import Tensor

from sign_ext.data.decode import FORMATS, decode_all, decode_file
from sign_ext.data.lazy import ImageIndex, LazyDataset, Parts, divided, given
from sign_ext.data.splits import SubsetSpec

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
DEFAULT_SIZE = 32
REPAIR = "Repair it or take it out of the folder."
LAYOUT = (
    "accepted: ROOT/CLASS/images, or ROOT/train/CLASS/images with ROOT/test and, optionally, "
    "ROOT/validation (or ROOT/val)"
)


def open_image_folder(root: Path, wanted: SubsetSpec) -> LazyDataset:
    """Find the images of a folder, which will be resized to squares.

    ROOT/CLASS/… is split 70/15/15 within each class. With ROOT/train/CLASS/… the folders test and
    validation (or val) are used as they are; without a validation folder 15% of the training images
    are held out. The splits depend on the file names only and never change.

    Args:
        root: the folder; images are found in all its depths, in the order of their paths.
        wanted: subset sizes and image size (default 32; the aspect ratio is not kept).

    Returns:
        The splits, unread, called after the folder; classes are in the order of their names.

    Raises:
        ValueError: another layout, too few images, or a subset too large.
    """
    size = wanted.image_size or DEFAULT_SIZE
    if folders(root / "train"):
        parts, names, ignored = _given_splits(root, size)
    else:
        names = tuple(folders(root))
        if not names:
            raise ValueError(f"{root} has no class folders; {LAYOUT}.")
        pool, ignored = _pool(root, "", names, size, at_least=3)
        parts = divided(pool)
    total = sum(len(where) for _, where in parts)
    note = f"images of {root.name} ({total:,} in {len(names)} classes, resized to {size}×{size}"
    note += f"; {ignored:,} other files ignored)" if ignored else ")"
    return LazyDataset(root.resolve().name, note, names, parts, wanted)


def _given_splits(root: Path, size: int) -> tuple[Parts, tuple[str, ...], int]:
    """List ROOT/train, ROOT/test and ROOT/validation or ROOT/val."""
    there = folders(root)
    unknown = [name for name in there if name not in ("train", "validation", "val", "test")]
    if unknown or "test" not in there or {"validation", "val"} <= set(there):
        raise ValueError(f"{root} holds the folders {there}; {LAYOUT}.")
    names = tuple(folders(root / "train"))
    for other in there:
        if folders(root / other) != list(names):
            raise ValueError(
                f"{root / other} has the classes {folders(root / other)}, {root / 'train'} has "
                f"{list(names)}; they must be the same."
            )
    held = next((name for name in ("validation", "val") if name in there), None)
    train, ignored = _pool(root, "train/", names, size, at_least=1 if held else 2)
    test, more = _pool(root, "test/", names, size, at_least=1)
    if held is None:
        return given(train, None, test), names, ignored + more
    validation, also = _pool(root, f"{held}/", names, size, at_least=1)
    return given(train, validation, test), names, ignored + more + also


def folders(root: Path) -> list[str]:
    """Return the names of the visible folders in a folder, sorted; none if it does not exist.

    Args:
        root: the folder.
    """
    if not root.is_dir():
        return []
    return sorted(
        each.name for each in root.iterdir() if each.is_dir() and not each.name.startswith(".")
    )


def _pool(
    root: Path, below: str, names: tuple[str, ...], size: int, *, at_least: int
) -> tuple[ImageIndex, int]:
    """List the images of each class below ROOT/BELOW; also count the files that are not images."""
    paths: list[str] = []
    labels: list[int] = []
    sizes: list[int] = []
    ignored = 0
    for label, name in enumerate(names):
        folder = root / below / name
        images, others = _images(folder, f"{below}{name}")
        if len(images) < at_least:
            raise ValueError(
                f"class {name!r} has {len(images)} images in {folder}; accepted: at least "
                f"{at_least}, with one of the endings {', '.join(EXTENSIONS)}."
            )
        paths += [path for path, _ in images]
        sizes += [bytes_ for _, bytes_ in images]
        labels += [label] * len(images)
        ignored += others

    def read(where: np.ndarray) -> Tensor:
        def decode(position: int) -> np.ndarray:
            return decode_file(root / paths[where[position]], size, REPAIR, FORMATS)

        return decode_all(len(where), size, decode)

    def keys(where: np.ndarray) -> list[str]:
        return [paths[position] for position in where]

    def identities(where: np.ndarray) -> list[bytes]:
        return [b"%d" % sizes[position] for position in where]

    return ImageIndex(np.asarray(labels, dtype=np.int64), read, size, identities, keys), ignored


def _images(folder: Path, name: str) -> tuple[list[tuple[str, int]], int]:
    """List (path, bytes) of a folder's images at any depth by path; count the other files.

    Paths begin with `name` and are strings: a listing of millions then stays a few hundred MB.
    """
    images: list[tuple[str, int]] = []
    others = 0
    for inside, _, files in os.walk(folder):
        below = Path(inside).relative_to(folder).as_posix()
        prefix = f"{name}/" if below == "." else f"{name}/{below}/"
        for file in files:
            try:
                found = os.stat(os.path.join(inside, file))
            except OSError:  # a link to nothing
                continue
            if not stat.S_ISREG(found.st_mode):
                continue
            if os.path.splitext(file)[1].lower() in EXTENSIONS and not file.startswith("."):
                images.append((prefix + file, found.st_size))
            else:
                others += 1
    return sorted(images), others
