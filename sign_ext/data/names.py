"""The data sets' names, and what is a path instead; imports neither torch nor numpy."""

from __future__ import annotations

from pathlib import Path

DATA_NAMES: tuple[str, ...] = (
    "digits",
    "drawings",
    "cifar10",
    "isic2017",
    "digits_imbalanced",
)
# Out-of-distribution test sets: images of a training set's classes from another source.
OOD_NAMES: tuple[str, ...] = ("tiny_imagenet", "digits_shifted")
COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


def is_path(name: str) -> bool:
    """Return whether `load_data` would take a name for a path, not for the name of a data set.

    Args:
        name: as for `load_data`.

    Example:
        >>> is_path("photos-{000..013}.tar"), is_path("digits")
        (True, False)
    """
    return name not in (*DATA_NAMES, *OOD_NAMES) and (Path(name).is_dir() or is_tar_name(name))


def is_tar_name(path: str) -> bool:
    """Return whether a path has the extension of a tar, compressed ones included.

    Args:
        path: a path or a pattern.

    Example:
        >>> is_tar_name("photos-{000..013}.tar"), is_tar_name("photos")
        (True, False)
    """
    return path.lower().endswith((".tar", *COMPRESSED_TARS))
