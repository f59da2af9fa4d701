"""Reading of Parquet files that hold one compressed image a row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

IMAGE = "image"


@contextmanager
def usable_as(data_set: str, file: Path) -> Iterator[None]:
    """Turn what goes wrong inside into one error that names the file.

    Args:
        data_set: what the file was to be used as.
        file: the file.

    Raises:
        ValueError: anything about the file was not as it should be.
    """
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, TypeError) as error:
        raise ValueError(f"{file} cannot be used as {data_set}: {error}.") from error


def read_columns(file: Path, columns: tuple[str, ...], rows: int | None = None) -> Any:
    """Read every needed column but the images.

    Args:
        file: the Parquet file.
        columns: the columns there must be, ``"image"`` among them; others are ignored.
        rows: the number of rows there must be; None for any number but zero.

    Returns:
        A ``pyarrow.Table`` of those columns without empty cells.

    Raises:
        ValueError: a column or a cell is missing, or there are more or fewer rows.
        pyarrow.ArrowException: not a readable Parquet file.
    """
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file) as opened:
        names = opened.schema_arrow.names
        missing = [name for name in columns if name not in names]
        if missing:
            raise ValueError(f"it has no column {missing[0]!r}; accepted: {columns}")
        table = opened.read(columns=[name for name in columns if name != IMAGE])
    nulls = sum(column.null_count for column in table.columns)
    if nulls or not table.num_rows or (rows is not None and table.num_rows != rows):
        wanted = "one row or more" if rows is None else f"{rows:,} rows"
        raise ValueError(
            f"it has {table.num_rows:,} rows and {nulls} empty cells; accepted: {wanted}, "
            "all filled"
        )
    return table


def read_cells(file: Path, where: np.ndarray) -> list[bytes]:
    """Read the compressed images of some rows, one row group in memory at a time.

    Args:
        file: the Parquet file.
        where: int64 (n,), increasing positions of rows.

    Returns:
        n images' bytes, as they lie in the file.

    Raises:
        ValueError: the file cannot be read, or a cell holds no bytes; the message names the row.
    """
    import pyarrow
    import pyarrow.parquet

    cells: list[bytes] = []
    first = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            for group in range(opened.num_row_groups):
                rows = opened.metadata.row_group(group).num_rows
                inside = where[(where >= first) & (where < first + rows)] - first
                if len(inside):
                    column = opened.read_row_group(group, columns=[IMAGE])[IMAGE]
                    cells += column.take(pyarrow.array(inside)).to_pylist()
                first += rows
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file} cannot be read: {error}.") from error
    for row, cell in zip(where, cells, strict=True):
        if not isinstance(cell, bytes):
            raise ValueError(f"{file}, row {row}: its image is {cell!r}, not bytes.")
    return cells
