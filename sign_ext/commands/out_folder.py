"""The folder of --out must not be one that the command reads from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sign_ext.commands.console import UsageError
from sign_ext.data.names import DATA_NAMES


def check_not_in_data(out: str, data: str | None) -> None:
    """Raise UsageError if OUT is the folder of the images, or inside it.

    Args:
        out: of --out.
        data: of --data, a name or a path; None if unknown.

    Example:
        >>> check_not_in_data("runs/new", "digits")
        >>> check_not_in_data("/photos/new", "/")
        Traceback (most recent call last):
        sign_ext.commands.console.UsageError: --out /photos/new is inside --data /: ...
    """
    if data is None or data in DATA_NAMES or not (folder := Path(data)).is_dir():
        return
    place, images = Path(out).resolve(), folder.resolve()
    if place == images or images in place.parents:
        where = "is" if place == images else "is inside"
        raise UsageError(
            f"--out {out} {where} --data {data}: what is written would be read as a part of the "
            "data set; give a folder elsewhere"
        )


def check_keeps_weights(out: str, given: Mapping[str, str | None]) -> None:
    """Raise UsageError if weights that are read lie in OUT, where files of their name are written.

    Args:
        out: of --out.
        given: option → the file or folder that it names, a name of something else, or None.
    """
    place = Path(out).resolve()
    for option, value in given.items():
        if value is None or not (path := Path(value)).exists():
            continue
        if place in (path.resolve(), path.resolve().parent):
            raise UsageError(
                f"{option} {value} lies in --out {out}, whose files are replaced: give another "
                "folder"
            )
