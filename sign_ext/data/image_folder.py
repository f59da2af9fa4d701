"""Any folder of images: one sub-folder a class, with or without folders for the splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from sign_ext.data.decode import decode_all, decode_file
from sign_ext.data.splits import Pool, Splits, Wanted, read_splits
from sign_ext.data.stratify import SPLIT_SEED, stratified_choice, three_way_split

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
DEFAULT_SIZE = 32
VALIDATION_SHARE = 0.15
REPAIR = "Repair it or take it out of the folder."
LAYOUT = (
    "accepted: ROOT/CLASS/images, or ROOT/train/CLASS/images with ROOT/test and, optionally, "
    "ROOT/validation (or ROOT/val)"
)


def load_image_folder(root: Path, wanted: Wanted) -> Splits:
    """Read a folder of images, resized to squares.

    ROOT/CLASS/… is split 70/15/15 within each class. With ROOT/train/CLASS/… the folders test and
    validation (or val) are used as they are; without a validation folder 15% of the training images
    are held out. The splits depend on the file names only and never change.

    Args:
        root: the folder; images are found in all its depths, in the order of their paths.
        wanted: subset sizes and image size (default 32; the aspect ratio is not kept).

    Returns:
        The splits, called after the folder; classes are in the order of their names.

    Raises:
        ValueError: another layout, too few images, an unreadable image, or a subset too large.
    """
    size = wanted.image_size or DEFAULT_SIZE
    if folders(root / "train"):
        parts, names, ignored = _given_splits(root, size)
    else:
        names = tuple(folders(root))
        if not names:
            raise ValueError(f"{root} has no class folders; {LAYOUT}.")
        pool, ignored = _pool(root, names, size, at_least=3)
        train, validation, test = three_way_split(pool.labels)
        parts = ((pool, train), (pool, validation), (pool, test))
    total = sum(len(where) for _, where in parts)
    note = f"images of {root.name} ({total:,} in {len(names)} classes, resized to {size}×{size}"
    note += f"; {ignored:,} other files ignored)" if ignored else ")"
    return read_splits(root.resolve().name, note, names, parts, wanted)


Parts = tuple[tuple[Pool, np.ndarray], tuple[Pool, np.ndarray], tuple[Pool, np.ndarray]]


def _given_splits(root: Path, size: int) -> tuple[Parts, tuple[str, ...], int]:
    """Read ROOT/train, ROOT/test and ROOT/validation or ROOT/val."""
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
    validation_name = next((name for name in ("validation", "val") if name in there), None)
    train, ignored = _pool(root / "train", names, size, at_least=1 if validation_name else 2)
    test, more = _pool(root / "test", names, size, at_least=1)
    every, test_part = np.arange(len(train.labels)), (test, np.arange(len(test.labels)))
    if validation_name:
        validation, also = _pool(root / validation_name, names, size, at_least=1)
        held = (validation, np.arange(len(validation.labels)))
        return ((train, every), held, test_part), names, ignored + more + also
    count = max(len(names), round(VALIDATION_SHARE * len(every)))
    held_out = stratified_choice(train.labels, count, seed=SPLIT_SEED)
    parts = ((train, np.setdiff1d(every, held_out)), (train, held_out), test_part)
    return parts, names, ignored + more


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


def _pool(root: Path, names: tuple[str, ...], size: int, *, at_least: int) -> tuple[Pool, int]:
    """List the images of each class; also count the files that are not images."""
    paths: list[Path] = []
    labels: list[int] = []
    ignored = 0
    for label, name in enumerate(names):
        found = [each for each in (root / name).rglob("*") if each.is_file()]
        images = [
            each
            for each in found
            if each.suffix.lower() in EXTENSIONS and not each.name.startswith(".")
        ]
        if len(images) < at_least:
            raise ValueError(
                f"class {name!r} has {len(images)} images in {root / name}; accepted: at least "
                f"{at_least}, with one of the endings {', '.join(EXTENSIONS)}."
            )
        paths += sorted(images, key=lambda path: path.relative_to(root).as_posix())
        labels += [label] * len(images)
        ignored += len(found) - len(images)

    def read(where: np.ndarray) -> Tensor:
        return decode_all(
            len(where), size, lambda position: decode_file(paths[where[position]], size, REPAIR)
        )

    return Pool(np.asarray(labels, dtype=np.int64), read), ignored
