"""ISIC-2017 part 3 on disk: the challenge's folders and tables, or one Parquet file."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np

from sign_ext.data.datasets.root import PUT_IT

HOME = "https://challenge.isic-archive.com/data/#2017"
# In the order of training, validation and test; the first test set was replaced by "v2".
PARTS = ("Training", "Validation", "Test_v2")
FOLDERS = tuple(f"ISIC-2017_{part}_Data" for part in PARTS)
TABLES = tuple(f"ISIC-2017_{part}_Part3_GroundTruth.csv" for part in PARTS)
PARQUET_FILE = "isic2017_256.parquet"
COLUMNS = ("image_id", "melanoma", "seborrheic_keratosis")
IMAGE_ID = re.compile(r"ISIC_\d{7}")

ACCEPTED = f"""accepted are, in this order:
  {FOLDERS[0]}/, {FOLDERS[1]}/ and {FOLDERS[2]}/ with ISIC_*.jpg, and
  {TABLES[0]}, {TABLES[1]} and {TABLES[2]}
  {PARQUET_FILE} (columns split, {", ".join(COLUMNS)}, image)
Download the first form from {HOME}, extract it and put it into {PUT_IT}"""


def find_format(root: Path) -> tuple[str, Path]:
    """Name the first form of ISIC-2017 that lies under a folder.

    Args:
        root: a folder that is there.

    Returns:
        ``"official"`` with the folder of the three folders and three tables, or ``"parquet"`` with
        the file.

    Raises:
        FileNotFoundError: nothing that is accepted lies there, or only some of it.
    """
    there = [name for name in FOLDERS if (root / name).is_dir()]
    if there:
        missing = [
            *(name for name in FOLDERS if name not in there),
            *(name for name in TABLES if not (root / name).is_file()),
        ]
        if missing:
            raise FileNotFoundError(
                f"{root / missing[0]} is missing beside {there[0]}. Get it from {HOME}."
            )
        return "official", root
    if (root / PARQUET_FILE).is_file():
        return "parquet", root / PARQUET_FILE
    raise FileNotFoundError(f"root={str(root)!r} holds no ISIC-2017 files. For isic2017 {ACCEPTED}")


def read_part(folder: Path, table: Path) -> tuple[list[Path], np.ndarray]:
    """List one part's photographs, each with its row of the table.

    Args:
        folder: holds ISIC_0000000.jpg and so on; its other files (superpixels, metadata) are left
            alone.
        table: the CSV file of the part.

    Returns:
        The images' paths in the order of their names, and int64 (N,), 1 for melanoma.

    Raises:
        ValueError: a table that is not as published, an image without a row or a row without
            an image.
    """
    labels = read_table(table)
    images = {path.stem: path for path in folder.glob("*.jpg") if IMAGE_ID.fullmatch(path.stem)}
    for image_id, (line, _) in labels.items():
        if image_id not in images:
            raise ValueError(
                f"{table}, line {line}: {folder.name} holds no {image_id}.jpg. Extract the whole "
                f"archive again; it is at {HOME}."
            )
    names = sorted(images)
    without = [name for name in names if name not in labels]
    if without:
        raise ValueError(
            f"{images[without[0]]} has no row in {table}. Get the table again from {HOME}."
        )
    melanoma = np.asarray([labels[name][1] for name in names], dtype=np.int64)
    return [images[name] for name in names], melanoma


def read_table(table: Path) -> dict[str, tuple[int, int]]:
    """Read a table of the challenge's third part.

    Args:
        table: CSV with the columns image_id, melanoma and seborrheic_keratosis, the last two
            0.0 or 1.0 and never both 1.0.

    Returns:
        Image id → (line of the file, 1 for melanoma or 0).

    Raises:
        ValueError: anything else; the message names the line.
    """
    labels: dict[str, tuple[int, int]] = {}
    line = 1
    try:
        with table.open(encoding="utf-8-sig", newline="") as opened:
            rows = csv.reader(opened, strict=True)
            header = tuple(next(rows, ()))
            if header != COLUMNS:
                raise ValueError(f"its columns are {header}; accepted: {COLUMNS}")
            for row in rows:
                line = rows.line_num
                image_id, melanoma = _read_row(row)
                if image_id in labels:
                    raise ValueError(f"{image_id} was on line {labels[image_id][0]} already")
                labels[image_id] = (line, melanoma)
    except (csv.Error, OSError, ValueError) as error:
        raise ValueError(
            f"{table}, line {line}: {error}. Get the table again from {HOME}."
        ) from error
    return labels


def _read_row(row: list[str]) -> tuple[str, int]:
    """Return a row's image id, and whether it is a melanoma."""
    if len(row) != len(COLUMNS):
        raise ValueError(f"it has {len(row)} cells; accepted: {len(COLUMNS)}")
    image_id, *cells = row
    if not IMAGE_ID.fullmatch(image_id):
        raise ValueError(f"image_id is {image_id!r}; accepted: ISIC_ and seven digits")
    values = []
    for column, cell in zip(COLUMNS[1:], cells, strict=True):
        if cell not in ("0", "0.0", "1", "1.0"):
            raise ValueError(f"{column} of {image_id} is {cell!r}; accepted: 0.0 or 1.0")
        values.append(int(cell[0]))
    check_diagnosis(image_id, *values)
    return image_id, values[0]


def check_diagnosis(image_id: str, melanoma: int, keratosis: int) -> None:
    """Raise ValueError unless a lesion is one of melanoma, seborrheic keratosis or neither.

    Args:
        image_id: the image.
        melanoma: 0 or 1.
        keratosis: 0 or 1.
    """
    if (melanoma, keratosis) not in ((0, 0), (0, 1), (1, 0)):
        raise ValueError(
            f"{image_id} has melanoma {melanoma} and seborrheic_keratosis {keratosis}; accepted: "
            "0 or 1, and at most one of them 1"
        )
