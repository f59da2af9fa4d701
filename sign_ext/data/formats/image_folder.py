"""Folders of images: a sub-folder a class, with or without folders for the splits."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from sign_ext.data.decode import (
    EXTENSIONS,
    FORMATS,
    Conversions,
    Decoding,
    decode_all,
    decode_file,
)
from sign_ext.data.lazy import (
    DEFAULT_SIZE,
    SPLIT_NAMES,
    ImageIndex,
    LazyDataset,
    parts_cut,
    splits_from,
)
from sign_ext.data.listing import (
    count_beside,
    has_images,
    holds_images,
    list_images,
    subfolders,
    tables_in,
    with_left_out,
)
from sign_ext.data.splits import SubsetSpec, split_names
from sign_ext.formatting import counted

ACCEPTED = (
    "accepted: ROOT/CLASS/images; ROOT/train/CLASS/images with, optionally, ROOT/validation and "
    "ROOT/test (also called Training, val, valid, testing and so on); or a folder of images with "
    "labels=FILE (--labels FILE), a CSV or JSON file"
)
_ACCEPTED = ACCEPTED[0].upper() + ACCEPTED[1:]  # begins a sentence
_ADVICE = "Repair it or remove it from the folder."
# Folders that hold the images of every class, where a table beside them holds the labels.
_IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpg", "jpgs", "jpeg", "png", "pngs", "masks")


@dataclass(frozen=True)
class Layout:
    """How a folder is divided.

    Args:
        folders: split → its folder of class folders, relative to ROOT with a slash at its end;
            ``""`` → the only one.
        class_names: the class folders of each.
        beside: (folder, names of the sub-folders that are read) of all the folders above them.
    """

    folders: dict[str, str]
    class_names: tuple[str, ...]
    beside: list[tuple[Path, list[str]]]


def open_image_folder(root: Path, subset: SubsetSpec) -> LazyDataset:
    """List the images of a folder; they are resized to squares when they are read.

    ROOT/CLASS/… is split 70/15/15 within each class. With ROOT/train/CLASS/… the folders for
    validation and test are used as they are, in their common spellings; what is missing is 15% of
    the training images, held out. A folder that only wraps another one is passed through. The
    splits depend on the file names only and never change.

    Args:
        root: the folder; images are found at any depth, in the order of their paths.
        subset: subset sizes, image size (default 32; the aspect ratio is not kept) and what images
            are accepted.

    Returns:
        The data set, named after the folder; classes are in the order of their names.

    Raises:
        ValueError: another folder structure, too few images, or a subset too large.
    """
    size = subset.image_size or DEFAULT_SIZE
    layout = find_layout(root)
    left_out: Counter[str] = Counter()
    for folder, used in layout.beside:
        count_beside(folder, used, left_out)
    indexes = {}
    for split, prefix in layout.folders.items():
        listed = list_images(
            [(root / prefix / name, f"{prefix}{name}") for name in layout.class_names], left_out
        )
        for name, images in zip(layout.class_names, listed, strict=True):
            if not images:
                raise ValueError(
                    f"class {name!r} has 0 images in {root / prefix / name}; accepted: at least "
                    f"1, with one of the extensions {', '.join(EXTENSIONS)}. Add some, or remove "
                    "the folder."
                )
        indexes[split] = index_files(root, listed, size, subset.decoding)
    splits = splits_from(indexes, layout.class_names, str(root))
    total = sum(len(positions) for _, positions in splits)
    note = with_left_out(
        f"images of {root.resolve().name} ({total:,} in "
        f"{counted(len(layout.class_names), 'class', 'classes')}, resized to {size}×{size})",
        left_out,
    )
    return LazyDataset(
        root.resolve().name,
        note,
        layout.class_names,
        splits,
        subset,
        left_out=left_out,
        cut=parts_cut(indexes),
        hints=_hints(root, layout),
    )


def index_files(
    root: Path,
    listed: list[list[tuple[str, int]]],
    size: int,
    decoding: Decoding,
) -> ImageIndex:
    """Make an index of image files.

    Args:
        root: the folder that their paths are relative to.
        listed: (path, bytes) of the images of each class, in label order.
        size: height and width to resize them to, in pixels.
        decoding: what images are accepted.
    """
    paths = [path for images in listed for path, _ in images]
    file_sizes = [file_size for images in listed for _, file_size in images]
    labels = np.repeat(np.arange(len(listed)), [len(images) for images in listed])
    conversions = Conversions(len(paths))

    def read(positions: np.ndarray) -> Tensor:
        def decode(number: int) -> np.ndarray:
            position = int(positions[number])
            file, notice = root / paths[position], conversions.of(position)
            return decode_file(file, size, _ADVICE, FORMATS, decoding, notice)

        return decode_all(len(positions), size, decode)

    def keys(positions: np.ndarray) -> list[str]:
        return [paths[position] for position in positions]

    def identities(positions: np.ndarray) -> list[bytes]:
        return [b"%d" % file_sizes[position] for position in positions]

    return ImageIndex(
        labels.astype(np.int64), read, size, identities, keys, conversions=conversions
    )


def find_layout(root: Path) -> Layout:
    """Find out which sub-folders are splits, which are classes, and which only wrap others.

    Args:
        root: the folder.

    Returns:
        The layout.

    Raises:
        ValueError: it cannot be told, or there is no class folder or one only; the message shows
            what was found and what to pass instead.
    """
    prefix = ""
    beside: list[tuple[Path, list[str]]] = []
    while True:
        base = root / prefix
        names = subfolders(base)
        splits = _split_folders(base, names)
        if splits:
            return _split_layout(root, prefix, splits, beside)
        inner = _only_wraps(base, names)
        if inner is None:
            break
        beside.append((base, [inner]))
        prefix = f"{prefix}{inner}/"
    _check_classes(base, names, tuple(folder for folder, _ in beside))
    return Layout({"": prefix}, tuple(names), [*beside, (base, names)])


def _split_folders(base: Path, names: list[str]) -> dict[str, str]:
    """Return folder → split if a folder is divided by split; {} if its folders are classes."""
    splits = split_names(names)
    if not splits:
        return {}
    with_classes = [name for name in splits if _class_folders(base / name)]
    others = [name for name in names if name not in splits and holds_images(base / name)]
    if others:
        # A single folder with images of its own may well be a class that is called train.
        if len(splits) == 1 and has_images(base / next(iter(splits))):
            return {}
        if len(set(splits.values())) == 1 and not with_classes:
            return {}
        raise ValueError(
            f"{base} holds the folders {sorted(splits)}, which are called like splits, and "
            f"{_some(others)}, which are not, so they may be splits or classes. Move or "
            f"rename one kind, or pass one of the folders, such as "
            f"{base / sorted(splits)[0]}; {ACCEPTED}."
        )
    if not with_classes:
        if len(names) > 1 or has_images(base / names[0]):
            raise ValueError(
                f"{base} holds the folders {sorted(splits)}, which are called like splits, but no "
                "class folders in them, so the images have no labels; if they are classes, rename "
                f"them.{_labels_hint(base)} {_ACCEPTED}."
            )
        return {}
    without = [name for name in splits if name not in with_classes]
    if without:
        what = "images but no class folders" if holds_images(base / without[0]) else "no images"
        raise ValueError(
            f"{base} holds the folders {sorted(splits)}, of which {without[0]} holds {what} and "
            f"{with_classes[0]} has the classes {_some(_class_folders(base / with_classes[0]))}. "
            f"Remove {without[0]}, or pass {base / with_classes[0]} alone."
            f"{_labels_hint(base)} {_ACCEPTED}."
        )
    return splits


def _split_layout(
    root: Path, prefix: str, splits: dict[str, str], beside: list[tuple[Path, list[str]]]
) -> Layout:
    """Describe ROOT/PREFIX, whose sub-folders are splits."""
    base = root / prefix
    by_split: dict[str, str] = {}
    for name in sorted(splits, key=lambda name: SPLIT_NAMES.index(splits[name])):
        if splits[name] in by_split:
            raise ValueError(
                f"{base} holds the folders {sorted(splits)}, of which {by_split[splits[name]]} and "
                f"{name} both mean {splits[name]}. Join them, or remove one; {ACCEPTED}."
            )
        by_split[splits[name]] = name
    if "train" not in by_split and len(by_split) > 1:
        raise ValueError(
            f"{base} holds the folders {sorted(splits)}, but none for training; {ACCEPTED}. To use "
            f"one of them by itself, pass it, such as {base / sorted(splits)[0]}."
        )
    beside = [*beside, (base, list(splits))]
    folders, classes = {}, {}
    for split, name in by_split.items():
        inside, inner = f"{prefix}{name}/", subfolders(root / prefix / name)
        # An archive may have a folder of its own name: training_set/training_set/CLASS.
        if len(inner) == 1 and (inner[0] == name or split_names(inner).get(inner[0]) == split):
            beside.append((root / inside, inner))
            inside = f"{inside}{inner[0]}/"
        folders[split], classes[split] = inside, subfolders(root / inside)
        beside.append((root / inside, classes[split]))
    if len(folders) == 1:  # train alone is split as a folder of classes is
        (folder,) = folders.values()
        folders = {"": folder}
        classes = {"": next(iter(classes.values()))}
    first = next(iter(folders))
    for split, names in classes.items():
        if names != classes[first]:
            raise ValueError(_difference(root, folders, classes, first, split))
    _check_classes(root / folders[first], classes[first])
    return Layout(folders, tuple(classes[first]), beside)


def _difference(
    root: Path, folders: dict[str, str], classes: dict[str, list[str]], first: str, split: str
) -> str:
    """Say how the classes of two splits differ."""
    lacks = sorted(set(classes[first]) - set(classes[split]))
    more = sorted(set(classes[split]) - set(classes[first]))
    shown = [f"it lacks {_some(lacks)}"] if lacks else []
    shown += [f"it also has {_some(more)}"] if more else []
    return (
        f"{root / folders[split]} has the classes {_some(classes[split])}, {root / folders[first]} "
        f"has {_some(classes[first])}: {' and '.join(shown)}; accepted: the same class folders in "
        "every split."
    )


def _check_classes(base: Path, names: list[str], above: tuple[Path, ...] = ()) -> None:
    """Raise ValueError unless there are two or more class folders that may be classes."""
    tables = tables_in(base)
    if not names:
        raise ValueError(
            f"{base} has no class folders.{_labels_hint(base, above)} {_ACCEPTED}. (To transform "
            'images without labels, see "A folder of photographs" in docs/guide.md.)'
        )
    if len(names) == 1:
        raise ValueError(
            f"{base} holds one class folder, {names[0]!r}, and a network needs two classes or "
            f"more. Pass {base / names[0]} if that holds the class folders."
            f"{_labels_hint(base, above)} {_ACCEPTED}."
        )
    image_folders = [name for name in names if name.lower() in _IMAGE_FOLDERS]
    if tables and image_folders:
        raise ValueError(
            f"{base} holds the folders {_some(names)} and {tables[0].name}, so "
            f"{image_folders[0]!r} may be no class.{_labels_hint(base, above)} {_ACCEPTED}."
        )


def _labels_hint(base: Path, above: tuple[Path, ...] = ()) -> str:
    """Suggest a table in a folder, or in folders above it, as labels; empty if there is none."""
    tables = [table for folder in (base, *above) for table in tables_in(folder)]
    if not tables:
        return ""
    return f" If {tables[0].name} holds the labels, pass labels={tables[0]} (--labels)."


def _only_wraps(base: Path, names: list[str]) -> str | None:
    """Return the only sub-folder of a folder if that has folders with images and no images."""
    if len(names) != 1 or has_images(base):
        return None
    inner = base / names[0]
    return names[0] if _class_folders(inner) and not has_images(inner) else None


def _class_folders(folder: Path) -> list[str]:
    """List the sub-folders with images at any depth."""
    return [name for name in subfolders(folder) if holds_images(folder / name)]


def _some(names: list[str]) -> str:
    """Write a list of names, the first ones if there are many."""
    return str(names) if len(names) <= 12 else f"{names[:10]} and {len(names) - 10:,} more"


def _hints(root: Path, layout: Layout) -> tuple[str, ...]:
    """Say which folder is read, if not the one that was given, and what lies next to it."""
    hints = []
    read = os.path.commonpath([f"./{folder}" for folder in layout.folders.values()])
    if read:  # empty for ROOT itself
        hints.append(f"read from {root / read}")
    resolved = root.resolve()
    siblings = split_names(subfolders(resolved.parent)) if resolved.parent != resolved else {}
    if resolved.name in siblings and "" in layout.folders:
        others = [
            name
            for name, split in siblings.items()
            if split != siblings[resolved.name] and _class_folders(resolved.parent / name)
        ]
        if others:
            hints.append(
                f"{resolved.parent} also has {', '.join(sorted(others))}: pass it (--data "
                f"{root.parent}) to use these parts instead of cutting them out of {root.name}"
            )
    return tuple(hints)
