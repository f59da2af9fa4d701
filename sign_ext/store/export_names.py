"""The names that exported images get: safe below any folder, and each used once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from sign_ext.data.classes import unique_names

Naming = Literal["name", "path", "position"]
NAMINGS: tuple[str, ...] = get_args(Naming)
# What a file name may have, in bytes, on nearly every file system; the suffix needs a few.
LONGEST = 240
SUFFIXES = frozenset(
    (
        *(".avif", ".bmp", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
        *(".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    )
)


def class_folders(class_names: Sequence[str]) -> tuple[str, ...]:
    """Return a folder's name for each class.

    Args:
        class_names: in label order. The second of two equal names gets a number.

    Raises:
        ValueError: a name that no folder can have; the message names it.

    Example:
        >>> class_folders(["cat", "dog", "dog"])
        ('cat', 'dog', 'dog (2)')
    """
    names = tuple(unique_names(tuple(class_names)))
    for name in names:
        if fault := _fault(name):
            raise ValueError(
                f"class {name!r} cannot be the name of a folder: it {fault}. Export to npy, hf or "
                "webdataset, which keep classes as numbers and text"
            )
    return names


def image_names(
    keys: Sequence[str], folders: Sequence[str], naming: Naming = "name"
) -> tuple[str, ...]:
    """Return a path without suffix for each image, relative to the folder of its K.

    Args:
        keys: what the store calls the images: paths in a folder, keys in a tar.
        folders: of each image's class, "" for none.
        naming: "name" takes what follows the class in the key, or its last part; "path" the whole
            key; "position" the number of the image in the store.

    Raises:
        ValueError: a name that escapes the folder or that no file can have, or two images of one
            name; the message names them and says what to choose.

    Example:
        >>> image_names(["train/cat/1.jpg", "digits/train/7"], ["cat", "dog"])
        ('cat/1', 'dog/7')
        >>> image_names(["../../secrets.png"], ["cat"], "path")
        Traceback (most recent call last):
        ValueError: '../../secrets.png' cannot be a file's name: its part '..' leads out of ...
    """
    digits = max(6, len(str(len(keys))))
    found: dict[str, str] = {}
    for position, (key, folder) in enumerate(zip(keys, folders, strict=True)):
        own = f"{position:0{digits}d}" if naming == "position" else _own_name(key, folder, naming)
        for part in own.split("/"):
            if fault := _fault(part):
                raise ValueError(
                    f"{key!r} cannot be a file's name: its part {part!r} {fault}. --names position "
                    "numbers the images"
                )
        name = f"{folder}/{own}" if folder else own
        if name in found:
            other = " --names path keeps the whole key," if naming == "name" else ""
            raise ValueError(
                f"{found[name]!r} and {key!r} would both be called {name!r}:{other} --names "
                "position numbers the images"
            )
        found[name] = key
    _refuse_equal_but_for_capitals(found)
    return tuple(found)


def _own_name(key: str, folder: str, naming: Naming) -> str:
    parts = key.split("/")
    if naming == "name":
        before = parts[:-1]
        parts = parts[before.index(folder) + 1 :] if folder in before else parts[-1:]
    stem, dot, suffix = parts[-1].rpartition(".")
    if stem and dot and f".{suffix.lower()}" in SUFFIXES:
        parts = [*parts[:-1], stem]
    return "/".join(parts)


def _fault(part: str) -> str:
    """Say why a part of a path is no name of a file; "" if it is one."""
    if part in (".", ".."):
        return "leads out of its folder"
    if not part:
        return "is empty"
    if "/" in part or "\\" in part or "\0" in part:
        return "has a slash, a backslash or a null character"
    if part != part.strip() or part.endswith("."):
        return "begins or ends with white space, or ends with a dot"
    if len(part.encode("utf-8", "surrogateescape")) > LONGEST:
        return f"is longer than {LONGEST} bytes"
    return ""


def _refuse_equal_but_for_capitals(names: dict[str, str]) -> None:
    """Raise ValueError if two names are equal on file systems that ignore capitals."""
    lower: dict[str, str] = {}
    for name in names:
        if (other := lower.setdefault(name.casefold(), name)) != name:
            raise ValueError(
                f"{names[other]!r} and {names[name]!r} would be called {other!r} and {name!r}, "
                "which many file systems take for one: --names position numbers the images"
            )


def tar_name(name: str) -> str:
    """Return an image's name in a WebDataset tar, where the first dot ends it.

    Example:
        >>> tar_name("cat/a.b c")
        'cat/a_b c'
    """
    return name.replace(".", "_")
