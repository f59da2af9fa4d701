"""Reading of Parquet files that hold one compressed image a row."""

from __future__ import annotations

import threading
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


class Cells:
    """The compressed images of a Parquet file, read row group by row group when asked for.

    The two row groups used last stay in memory, compressed images as they lie in the file: piece
    after piece is then read from the file once, also by several threads at neighbouring pieces.

    Args:
        file: the Parquet file.

    Raises:
        OSError: it cannot be read.
        pyarrow.ArrowException: not a readable Parquet file.
    """

    KEPT = 2

    def __init__(self, file: Path) -> None:
        """Read where the row groups begin, and how large they are."""
        import pyarrow.parquet

        self.file = file
        with pyarrow.parquet.ParquetFile(file) as opened:
            groups = [opened.metadata.row_group(i) for i in range(opened.num_row_groups)]
            column = opened.schema_arrow.names.index(IMAGE)
        self._ends = np.cumsum([group.num_rows for group in groups])
        sizes = sorted(group.column(column).total_uncompressed_size for group in groups)
        self.resident_bytes = sum(sizes[-self.KEPT :])
        self._kept: dict[int, Any] = {}
        self._lock = threading.Lock()

    def read(self, where: np.ndarray) -> list[bytes]:
        """Read the compressed images of some rows.

        Args:
            where: int64 (n,), increasing positions of rows.

        Returns:
            n images' bytes, as they lie in the file.

        Raises:
            ValueError: the file cannot be read, or a cell holds no bytes; the message names the
                row.
        """
        cells = self._cells(where)
        for row, cell in zip(where, cells, strict=True):
            if not isinstance(cell, bytes):
                raise ValueError(f"{self.file}, row {row}: its image is {cell!r}, not bytes.")
        return cells

    def identities(self, where: np.ndarray) -> list[bytes]:
        """Return the same bytes to be told apart; a cell without any has the empty ones.

        Args:
            where: int64 (n,), increasing positions of rows.
        """
        return [cell if isinstance(cell, bytes) else b"" for cell in self._cells(where)]

    def _cells(self, where: np.ndarray) -> list[Any]:
        """Return what the cells of some rows hold."""
        import pyarrow

        cells: list[Any] = []
        holding = np.searchsorted(self._ends, where, side="right")
        for group in np.unique(holding).tolist():
            first = self._ends[group - 1] if group else 0
            inside = where[holding == group] - first
            try:
                cells += self._group(group).take(pyarrow.array(inside)).to_pylist()
            except (pyarrow.ArrowException, OSError) as error:
                raise ValueError(f"{self.file} cannot be read: {error}.") from error
        return cells

    def _group(self, group: int) -> Any:
        """Return a row group's images, from the file unless it is one of those used last."""
        import pyarrow.parquet

        with self._lock:
            column = self._kept.pop(group, None)
            if column is None:
                with pyarrow.parquet.ParquetFile(self.file) as opened:
                    column = opened.read_row_group(group, columns=[IMAGE])[IMAGE]
            self._kept[group] = column
            while len(self._kept) > self.KEPT:
                del self._kept[next(iter(self._kept))]
            return column
