"""Finding tars by a path: one file, several by a pattern of numbers, or those of a folder."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")
LAYOUT = (
    "accepted: photos.tar, photos-{000..013}.tar, ROOT/*.tar, or ROOT/train/*.tar with "
    "ROOT/test/*.tar and, optionally, ROOT/validation (or ROOT/val)"
)


def is_tar(name: str) -> bool:
    """Tell whether a path's ending is a tar's, compressed ones included.

    Example:
        >>> is_tar("photos-{000..013}.tar"), is_tar("photos")
        (True, False)
    """
    return name.lower().endswith((".tar", *COMPRESSED))


def expand(name: str) -> list[Path]:
    """List the files that a path or a pattern names, all of which must be there.

    Args:
        name: a tar, or a pattern with ranges of numbers: ``{000..013}`` means 000, 001 … 013.

    Returns:
        The files in the pattern's order.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a range that runs backwards, or braces that hold something else.
    """
    if Path(name).is_file():
        return [Path(name)]
    between = NUMBERS.split(name)
    texts, ranges = between[::3], list(zip(between[1::3], between[2::3], strict=True))
    if any("{" in text or "}" in text for text in texts):
        raise ValueError(f"name={name!r} has braces that are no range; {LAYOUT}.")
    numbers = []
    for first, last in ranges:
        if int(first) > int(last):
            raise ValueError(f"name={name!r} has a range that runs backwards; {LAYOUT}.")
        width = len(first)
        numbers.append([f"{each:0{width}d}" for each in _few(first, last, name)])
    paths = []
    for chosen in itertools.product(*numbers):
        pieces = itertools.chain.from_iterable(zip(texts, chosen, strict=False))
        path = Path("".join(pieces) + texts[-1])
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing (name={name!r}); {LAYOUT}.")
        paths.append(path)
    return paths


def _few(first: str, last: str, name: str) -> range:
    """Return a range of numbers, unless a slip of the pen made it immense."""
    if int(last) - int(first) >= 1_000_000:
        raise ValueError(f"name={name!r} has a range of more than a million files; {LAYOUT}.")
    return range(int(first), int(last) + 1)


def tars_in(folder: Path) -> list[Path]:
    """List the visible tars of a folder by name; none if there is no such folder.

    Args:
        folder: the folder; what is below its own folders does not count.
    """
    if not folder.is_dir():
        return []
    return sorted(
        each
        for each in folder.iterdir()
        if each.name.lower().endswith(".tar") and not each.name.startswith(".") and each.is_file()
    )


def compressed_in(folder: Path) -> list[Path]:
    """List the visible compressed tars of a folder by name.

    Args:
        folder: a folder that is there.
    """
    return sorted(
        each
        for each in folder.iterdir()
        if each.name.lower().endswith(COMPRESSED) and not each.name.startswith(".")
    )
