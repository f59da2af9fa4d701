"""The data sets of the paper and the bundled digits, a module each; may import sign_ext.data.

This module finds the folder that holds their files.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT_VARIABLE = "SIGN_EXT_DATA"
# Ends the list of accepted files of each data set.
WHERE_TO_PUT = (
    f"the folder given by root (--data-root) or by the environment variable {ROOT_VARIABLE}."
)


def find_root(root: str | Path | None, accepted: str) -> Path:
    """Return the folder of the data files.

    Args:
        root: the folder; None for the one that SIGN_EXT_DATA names.
        accepted: the files that the data set can be read from, and where to get them; ends the
            error message.

    Returns:
        The folder, with ``~`` expanded.

    Raises:
        FileNotFoundError: no folder is named, or it does not exist.
    """
    if root is None:
        root = os.environ.get(ROOT_VARIABLE) or None
    if root is None:
        raise FileNotFoundError(f"root is not given and {ROOT_VARIABLE} is not set; {accepted}")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"root={str(root)!r} is not a folder; {accepted}")
    return folder
