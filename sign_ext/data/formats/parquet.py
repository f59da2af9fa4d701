"""Parquet files that hold one compressed image a row."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

IMAGE = "image"


@contextmanager
def parquet_errors(data_set: str, file: Path) -> Iterator[None]:
    """Turn every exception about a wrong or damaged file into a ValueError that names it.

    Args:
        data_set: what the file is read as.
        file: the file.

    Raises:
        ValueError: the block raised an exception that means that the file cannot be used.
    """
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, TypeError) as error:
        raise ValueError(f"{file} cannot be used as {data_set}: {error}.") from error


def read_columns(file: Path, columns: tuple[str, ...], rows: int | None = None) -> Any:
    """Read the requested columns, except the images.

    Args:
        file: the Parquet file.
        columns: the required columns, ``"image"`` among them; others are ignored.
        rows: the required number of rows; None for any number but zero.

    Returns:
        A ``pyarrow.Table`` of those columns without nulls.

    Raises:
        ValueError: a missing column, a null, or another number of rows.
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
        accepted = "one row or more" if rows is None else f"{rows:,} rows"
        raise ValueError(
            f"it has {table.num_rows:,} rows and {nulls} empty cells; accepted: {accepted}, "
            "no empty cells"
        )
    return table


class ImageColumn:
    """The compressed images of a Parquet file, read on demand, a row group at a time.

    The two row groups used last stay in memory, with the images still compressed. So reading in
    order reads the file once, even if several threads read neighbouring rows.

    Args:
        file: the Parquet file.

    Raises:
        OSError: it cannot be read.
        pyarrow.ArrowException: not a readable Parquet file.
    """

    CACHED_GROUPS = 2

    def __init__(self, file: Path) -> None:
        """Read the bounds and sizes of the row groups."""
        import pyarrow.parquet

        self.file = file
        with pyarrow.parquet.ParquetFile(file) as opened:
            groups = [opened.metadata.row_group(i) for i in range(opened.num_row_groups)]
            column = opened.schema_arrow.names.index(IMAGE)
        self._ends = np.cumsum([group.num_rows for group in groups])
        sizes = sorted(group.column(column).total_uncompressed_size for group in groups)
        self.resident_bytes = sum(sizes[-self.CACHED_GROUPS :])
        self._cache: dict[int, Any] = {}  # row group → column, the one used last at the end
        self._lock = threading.Lock()

    def read(self, rows: np.ndarray) -> list[bytes]:
        """Read the compressed images of some rows.

        Args:
            rows: int64 (n,), increasing.

        Returns:
            The images' bytes, as they are in the file.

        Raises:
            ValueError: the file cannot be read, or a cell is empty; the message names the row.
        """
        cells = self._cells(rows)
        for row, cell in zip(rows, cells, strict=True):
            if not isinstance(cell, bytes):
                raise ValueError(f"{self.file}, row {row}: its image is {cell!r}, not bytes.")
        return cells

    def identities(self, rows: np.ndarray) -> list[bytes]:
        """Return the compressed images as identities; empty bytes for an empty cell.

        Args:
            rows: int64 (n,), increasing.
        """
        return [cell if isinstance(cell, bytes) else b"" for cell in self._cells(rows)]

    def _cells(self, rows: np.ndarray) -> list[Any]:
        """Return the content of some rows' cells."""
        import pyarrow

        cells: list[Any] = []
        group_of_row = np.searchsorted(self._ends, rows, side="right")
        for group in np.unique(group_of_row).tolist():
            first = self._ends[group - 1] if group else 0
            rows_in_group = rows[group_of_row == group] - first
            try:
                cells += self._group(group).take(pyarrow.array(rows_in_group)).to_pylist()
            except (pyarrow.ArrowException, OSError) as error:
                raise ValueError(f"{self.file} cannot be read: {error}.") from error
        return cells

    def _group(self, group: int) -> Any:
        """Return a row group's images, from the cache or else from the file."""
        import pyarrow.parquet

        # Reading under the lock: threads that need the same row group wait for one read of it.
        with self._lock:
            column = self._cache.pop(group, None)
            if column is None:
                with pyarrow.parquet.ParquetFile(self.file) as opened:
                    column = opened.read_row_group(group, columns=[IMAGE])[IMAGE]
            self._cache[group] = column
            while len(self._cache) > self.CACHED_GROUPS:
                del self._cache[next(iter(self._cache))]
            return column
