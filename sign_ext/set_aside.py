"""Files that are to be replaced: kept in the folder until what replaces them exists.

FOLDER/.replaced/     the old files, at the same relative paths
FOLDER/.replaced/.all empty; there from when all of them are, until they begin to go back
FOLDER/.discarded/    old files that are being removed

A process killed at any point leaves one of these, and `recover` tells what to do about it: files
without the mark go back to their places; with it they go back after what is new is removed, unless
enough of that exists.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

ASIDE, DISCARDED = ".replaced", ".discarded"
_MARK = ".all"


def set_aside(folder: Path, files: Iterable[Path]) -> None:
    """Move files of a folder out of the way; first the one whose path comes first in the alphabet.

    Args:
        folder: nothing is set aside in it (`recover` sees to that).
        files: in it, at any depth.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = Path(name)
        ...     _ = (folder / "a.txt").write_text("old")
        ...     set_aside(folder, [folder / "a.txt"])
        ...     _ = (folder / "a.txt").write_text("new")
        ...     recover(folder, new=[folder / "a.txt"], enough=False)
        ...     (folder / "a.txt").read_text()
        'old'
    """
    aside = folder / ASIDE
    aside.mkdir()
    for file in sorted(files):
        place = aside / file.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, place)
    (aside / _MARK).touch()


def is_set_aside(folder: Path) -> bool:
    """Return whether a folder holds files that were set aside.

    Args:
        folder: it need not exist.
    """
    return (folder / ASIDE).is_dir() or (folder / DISCARDED).is_dir()


def discard(folder: Path) -> None:
    """Remove the files that were set aside, if there are any.

    Args:
        folder: that they are in.
    """
    aside, discarded = folder / ASIDE, folder / DISCARDED
    if discarded.is_dir():
        shutil.rmtree(discarded)
    if aside.is_dir():
        # Renamed first: of what a kill leaves of it, nothing must go back.
        os.replace(aside, discarded)
        shutil.rmtree(discarded)


def recover(folder: Path, *, new: Iterable[Path], enough: bool) -> None:
    """Bring files that were set aside back, or remove them; without such files nothing is done.

    Args:
        folder: that they are in.
        new: the files in the folder that replace them.
        enough: whether that is so much that the old ones are not needed any more.
    """
    aside = folder / ASIDE
    if not aside.is_dir():
        discard(folder)
        return
    mark = aside / _MARK
    if mark.exists():
        if enough:
            discard(folder)
            return
        for file in new:
            file.unlink(missing_ok=True)
        mark.unlink()
    for file in sorted((each for each in aside.rglob("*") if not each.is_dir()), reverse=True):
        place = folder / file.relative_to(aside)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, place)
    shutil.rmtree(aside)
    discard(folder)
