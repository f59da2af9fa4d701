"""CIFAR-10 as two Parquet files of WebP images with a flag for the exact ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from sign_ext.data.decode import decode_exact
from sign_ext.data.formats.parquet import Cells, read_columns, usable_as
from sign_ext.data.lazy import Pool

COLUMNS = ("image", "label", "lossless")
SIZE = 32


def read_parquet(file: Path, images: int) -> tuple[Pool, int]:
    """Open one Parquet file: labels now, pixels when they are asked for.

    Args:
        file: columns image (bytes of a 32×32 WebP), label (0–9), lossless (bool).
        images: the number of rows that there must be.

    Returns:
        The pool of images, and how many of its rows are marked lossless.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
        ValueError: not such a file.
    """
    with usable_as("CIFAR-10", file):
        table = read_columns(file, COLUMNS, images)
        labels = table["label"].to_numpy().astype(np.int64)
        lossless = int(table["lossless"].to_numpy().astype(bool).sum())
        if labels.min() < 0 or labels.max() > 9:
            raise ValueError("it has labels outside 0 to 9")
        cells = Cells(file)

    def read(where: np.ndarray) -> Tensor:
        names = [f"{file}, row {row}" for row in where]
        # One thread: images this small spend their time under Python's lock, so more gain nothing.
        return decode_exact(cells.read(where), names, SIZE, "WEBP", threads=1)

    pool = Pool(labels, read, SIZE, cells.identities, resident_bytes=cells.resident_bytes)
    return pool, lossless
