"""CIFAR-10 as two Parquet files of WebP images with a flag for the exact ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sign_ext.data.decode import decode_all, decode_rgb
from sign_ext.data.splits import Pool

COLUMNS = ("image", "label", "lossless")


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
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            names = opened.schema_arrow.names
            missing = [name for name in COLUMNS if name not in names]
            if missing:
                raise ValueError(f"it has no column {missing[0]!r}; accepted: {COLUMNS}")
            table = opened.read(columns=["label", "lossless"])
            nulls = sum(table[name].null_count for name in ("label", "lossless"))
            if nulls or table.num_rows != images:
                raise ValueError(
                    f"it has {table.num_rows:,} rows and {nulls} empty cells; accepted: "
                    f"{images:,} rows, all filled"
                )
            labels = table["label"].to_numpy().astype(np.int64)
            lossless = int(table["lossless"].to_numpy().astype(bool).sum())
            if labels.min() < 0 or labels.max() > 9:
                raise ValueError("it has labels outside 0 to 9")
    except (pyarrow.ArrowException, OSError, ValueError, TypeError) as error:
        raise ValueError(f"{file} cannot be used as CIFAR-10: {error}.") from error
    return Pool(labels, lambda where: _read_images(file, where)), lossless


def _read_images(file: Path, where: np.ndarray) -> Tensor:
    """Decode the images of some rows, one row group in memory at a time."""
    import pyarrow
    import pyarrow.parquet

    parts = []
    first = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            for group in range(opened.num_row_groups):
                rows = opened.metadata.row_group(group).num_rows
                inside = where[(where >= first) & (where < first + rows)] - first
                if len(inside):
                    column = opened.read_row_group(group, columns=["image"])["image"]
                    cells = column.take(pyarrow.array(inside)).to_pylist()
                    parts.append(_decode(cells, inside + first, file))
                first += rows
    except pyarrow.ArrowException as error:
        raise ValueError(f"{file} cannot be read: {error}.") from error
    return torch.cat(parts)


def _decode(cells: list[bytes], rows: np.ndarray, file: Path) -> Tensor:
    """Decode WebP bytes; an error names the row."""

    def decode(position: int) -> np.ndarray:
        try:
            pixels = decode_rgb(cells[position], None, formats=("WEBP",))
            if pixels.shape != (32, 32, 3):
                raise ValueError(f"it is {pixels.shape[1]}×{pixels.shape[0]} pixels, not 32×32")
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{file}, row {rows[position]}: {error}.") from error
        return pixels

    # One thread: images this small spend their time under Python's lock, so more gain nothing.
    return decode_all(len(cells), 32, decode, threads=1)
