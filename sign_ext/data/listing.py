"""What lies below a folder: every file is listed as an image, or counted by the reason it is not.

Links are followed. A folder that is reached twice is read once, so that no image is in two splits
and a link to a parent does not run in circles.
"""

from __future__ import annotations

import dataclasses
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sign_ext.data.classes import unique_names
from sign_ext.data.decode import EXTENSIONS
from sign_ext.data.names import COMPRESSED_TARS
from sign_ext.formatting import counted

# Why something on the disk is not among the images: kind → singular and plural, for notes.
LEFT_OUT = {
    "hidden": ("hidden or tool's file", "hidden or tools' files"),
    "other": ("file of another kind", "files of other kinds"),
    "loose_images": ("image beside the class folders", "images beside the class folders"),
    "unlabelled": ("image without a label", "images without a label"),
    "broken_links": ("broken link", "broken links"),
    "linked_twice": ("link to a folder read already", "links to folders read already"),
    "special": ("pipe, socket or device", "pipes, sockets or devices"),
    "compressed_tars": ("compressed tar", "compressed tars"),
    "members": ("other member of tars", "other members of tars"),
}
# Folders that tools leave behind and that do not begin with a dot, in lower case.
_TOOL_FOLDERS = (
    *("__macosx", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "__pycache__"),
    *("lost+found", "system volume information"),
)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or a tool's folder such as ``__MACOSX``.

    Args:
        name: its name without folders.

    Example:
        >>> is_hidden(".ipynb_checkpoints"), is_hidden("@eaDir"), is_hidden("cat")
        (True, True, False)
    """
    return name.startswith(".") or name.lower() in _TOOL_FOLDERS


def is_image_name(name: str) -> bool:
    """Return whether a file's extension is that of an image format that is read.

    Args:
        name: its name.
    """
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, without hidden and tools' ones, sorted.

    Args:
        folder: the folder; there are none if it does not exist.
    """
    if not folder.is_dir():
        return []
    return sorted(
        entry.name for entry in _scan(folder) if not is_hidden(entry.name) and _is_folder(entry)
    )


def kind_of(entry: os.DirEntry[str]) -> str:
    """Return what something that is not a folder is: ``"image"`` or a key of `LEFT_OUT`.

    Args:
        entry: a file, link, pipe, socket or device.
    """
    try:
        status = entry.stat()
    except OSError:  # its target is missing, or it links to itself
        return "broken_links"
    if not stat.S_ISREG(status.st_mode):
        return "special"
    if is_hidden(entry.name):
        return "hidden"
    if entry.name.lower().endswith(COMPRESSED_TARS):
        return "compressed_tars"
    return "image" if is_image_name(entry.name) else "other"


def list_images(
    folders: list[tuple[Path, str]], left_out: Counter[str]
) -> list[list[tuple[str, int]]]:
    """List the images at any depth below some folders.

    Args:
        folders: each with what the paths of its images begin with.
        left_out: what is not an image is added here, by kind (see `LEFT_OUT`).

    Returns:
        For each folder (path, bytes) of its images by path: strings rather than Path objects, so
        that a listing of millions takes a few hundred MB.

    Raises:
        ValueError: a folder that cannot be listed.
    """
    images: list[list[tuple[str, int]]] = [[] for _ in folders]
    # Links wait until every real folder is read: a folder belongs to where it is, and not to the
    # class that links to it.
    real: list[tuple[str, str, int]] = []
    links: list[tuple[str, str, int]] = []
    for number, (folder, prefix) in enumerate(folders):
        (links if folder.is_symlink() else real).append((str(folder), prefix, number))
    # A link to a folder above would lead here again.
    above = {parent for folder, _ in folders for parent in folder.absolute().parents}
    seen = {(status.st_dev, status.st_ino) for status in map(os.stat, above)}
    while real or links:
        directory, prefix, number = real.pop() if real else links.pop(0)
        status = os.stat(directory)
        identity = (status.st_dev, status.st_ino)
        if identity in seen and status.st_ino:
            left_out["linked_twice"] += 1
            continue
        seen.add(identity)
        for entry in _scan(Path(directory)):
            path = f"{prefix}/{entry.name}" if prefix else entry.name
            if _is_folder(entry):
                if is_hidden(entry.name):
                    left_out["hidden"] += _count_files(entry.path)
                else:
                    (links if entry.is_symlink() else real).append((entry.path, path, number))
            elif (kind := kind_of(entry)) == "image":
                images[number].append((path, entry.stat().st_size))
            else:
                left_out[kind] += 1
    return [sorted(each) for each in images]


def count_beside(folder: Path, used: list[str], left_out: Counter[str]) -> None:
    """Count what lies in a folder beside the sub-folders that are read.

    Args:
        folder: the folder.
        used: names of the files and sub-folders that are read.
        left_out: the counts are added here; an image counts as loose.
    """
    unread: list[tuple[Path, str]] = []
    for entry in _scan(folder):
        if entry.name in used:
            continue
        if not _is_folder(entry):
            kind = kind_of(entry)
            left_out["loose_images" if kind == "image" else kind] += 1
        elif is_hidden(entry.name):
            left_out["hidden"] += _count_files(entry.path)
        else:
            unread.append((Path(entry.path), ""))
    loose = sum(len(images) for images in list_images(unread, left_out))
    if loose:
        left_out["loose_images"] += loose


def has_images(folder: Path) -> bool:
    """Return whether a folder holds an image itself, not only in its sub-folders.

    Args:
        folder: an existing folder.
    """
    return any(not _is_folder(entry) and kind_of(entry) == "image" for entry in _scan(folder))


def holds_images(folder: Path) -> bool:
    """Return whether there is an image at any depth below a folder.

    Args:
        folder: an existing folder.
    """
    seen: set[str] = set()
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        real = os.path.realpath(current)
        if real in seen:
            continue
        seen.add(real)
        if has_images(current):
            return True
        waiting += [current / name for name in subfolders(current)]
    return False


def tables_in(folder: Path) -> list[Path]:
    """List the files in a folder that may hold labels: CSV, TSV, JSON.

    Args:
        folder: an existing folder.
    """
    endings = (".csv", ".tsv", ".json", ".jsonl")
    return sorted(
        Path(entry.path)
        for entry in _scan(folder)
        if entry.name.lower().endswith(endings) and not is_hidden(entry.name)
    )


def in_words(left_out: dict[str, int]) -> str:
    """Write counts of what was left out for a note.

    Args:
        left_out: kind → number.

    Example:
        >>> in_words({"hidden": 2, "broken_links": 1})
        "2 hidden or tools' files, 1 broken link"
    """
    shown = []
    for kind, count in left_out.items():
        singular, plural = LEFT_OUT[kind]
        shown.append(counted(count, singular, plural))
    return ", ".join(shown)


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of a folder; a folder that cannot be read is an error, not an empty one."""
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be listed: {error.strerror}. Make it readable, or remove it."
        ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _count_files(folder: str) -> int:
    """Count the files at any depth below a folder."""
    return sum(len(files) for _, _, files in os.walk(folder))


# What a data set was found to hold: its classes and parts, and what of the files is left out.


# What may happen to an image when it is decoded: kind → how a note says it.
CONVERTED = {
    "transparency": "lost transparency",
    "frames": "animated, read by the first frame",
    "pages": "of several pages, read by the first",
    "scaled": "scaled to 8 bits a channel",
}
# What messages call the images of a part.
PARTS = {"train": "training", "validation": "validation", "test": "test"}
MOST_CLASSES = 40  # that are listed in a message; all are in to_dict()


@dataclass(frozen=True)
class DataSummary:
    """What a data set holds, for messages and for ``--json``.

    Args:
        name: the data set's name.
        note: what the data really is, one line for reports.
        parts: ``"train"``, ``"validation"`` and ``"test"`` → number of images, before subsets.
        classes: name → number of images in all parts together.
        left_out: kind → number of files that are not among the images (docs/data.md).
        converted: kind → number of images that were changed in decoding, of those decoded so far.
        cut: the parts that have no files of their own and are cut out of the training images.
        hints: what was guessed, and what else could be asked for, a line each.
    """

    name: str
    note: str
    parts: Mapping[str, int]
    classes: Mapping[str, int]
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    converted: Mapping[str, int] = dataclasses.field(default_factory=dict)
    cut: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """The number of images in all parts together."""
        return sum(self.parts.values())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "name": self.name,
            "note": self.note,
            "images": self.images,
            "parts": dict(self.parts),
            "classes": dict(self.classes),
            "left_out": dict(self.left_out),
            "converted": dict(self.converted),
            "cut": list(self.cut),
        }

    def lines(self) -> list[str]:
        """Return what a command prints before it starts: note, parts, classes and hints.

        Example:
            >>> parts = {"train": 180, "validation": 60, "test": 120}
            >>> classes = {"cat": 150, "dog": 210}
            >>> for line in DataSummary("photos", "images of photos (360)", parts, classes).lines():
            ...     print(line)
            images of photos (360)
            photos: 180 training, 60 validation, 120 test images in 2 classes
            2 classes: cat 150, dog 210
        """
        classes = counted(len(self.classes), "class", "classes")
        parts = ", ".join(
            f"{count:,} {PARTS.get(part, '')}".rstrip() for part, count in self.parts.items()
        )
        lines = [
            self.note,
            f"{self.name}: {parts} images in {classes}",
            f"{classes}: {self._classes_in_words()}",
        ]
        if self.cut:
            lines.append(
                f"{' and '.join(self.cut)} images are cut out of the training images "
                "(--split all takes them all, where a command has it)"
            )
        return [*lines, *self.hints]

    def converted_in_words(self) -> str:
        """Say how many images were changed in decoding; empty if none was."""
        shown = (f"{count:,} {CONVERTED[kind]}" for kind, count in self.converted.items())
        words = ", ".join(shown)
        return f"images {words}" if words else ""

    def _classes_in_words(self) -> str:
        """List the classes with their numbers of images, the first ones if there are many."""
        listed = [f"{name} {count:,}" for name, count in self.classes.items()]
        if len(listed) <= MOST_CLASSES:
            return ", ".join(listed)
        rest = list(self.classes.values())[MOST_CLASSES:]
        return (
            f"{', '.join(listed[:MOST_CLASSES])} and {len(rest):,} more of {min(rest):,} to "
            f"{max(rest):,} images (all are in --json)"
        )


def count_classes(class_names: tuple[str, ...], counts: list[int]) -> dict[str, int]:
    """Map each class name to its number of images; a name that occurs twice gets a number.

    Args:
        class_names: one name a class.
        counts: one number a class.

    Example:
        >>> count_classes(("cat", "cat"), [3, 4])
        {'cat': 3, 'cat (2)': 4}
    """
    return dict(zip(unique_names(class_names), counts, strict=True))


def with_left_out(note: str, left_out: Mapping[str, int]) -> str:
    """Add to a note what was left out; return the note as it is if nothing was.

    Args:
        note: ends with a closing bracket.
        left_out: kind → number.

    Example:
        >>> with_left_out("images of zoo (40)", {"broken_links": 1})
        'images of zoo (40; left out: 1 broken link)'
    """
    words = in_words({kind: count for kind, count in left_out.items() if count})
    return f"{note.removesuffix(')')}; left out: {words})" if words else note
