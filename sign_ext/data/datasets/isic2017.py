"""ISIC-2017, part 3: photographs of skin lesions, melanoma or not.

Two formats are read: the challenge's folders and tables, or one Parquet file.
"""

from __future__ import annotations

import csv
import dataclasses
import re
from pathlib import Path

import numpy as np
from torch import Tensor

from sign_ext.data.datasets import WHERE_TO_PUT
from sign_ext.data.decode import decode_all, decode_exact, decode_file
from sign_ext.data.formats.parquet import ImageColumn, parquet_errors, read_columns
from sign_ext.data.lazy import ImageIndex, IndexedSplit, IndexedSplits, LazyDataset
from sign_ext.data.splits import SubsetSpec

CLASS_NAMES = ("benign", "melanoma")
# The image size of Inception-ResNet-v2, the network that the paper trains on this data set.
DEFAULT_SIZE = 299
PARQUET_SIZE = 256
# The published numbers of images and of melanomas.
COUNTS = {"train": (2_000, 374), "validation": (150, 30), "test": (600, 117)}

HOME = "https://challenge.isic-archive.com/data/#2017"
# What the challenge calls training, validation and test; "v2" replaced its first test set.
OFFICIAL_NAMES = ("Training", "Validation", "Test_v2")
FOLDERS = tuple(f"ISIC-2017_{name}_Data" for name in OFFICIAL_NAMES)
TABLES = tuple(f"ISIC-2017_{name}_Part3_GroundTruth.csv" for name in OFFICIAL_NAMES)
PARQUET_FILE = "isic2017_256.parquet"
COLUMNS = ("image_id", "melanoma", "seborrheic_keratosis")
IMAGE_ID = re.compile(r"ISIC_\d{7}")

ACCEPTED = f"""accepted for isic2017 (the first that is found is read):
  - {FOLDERS[0]}/, {FOLDERS[1]}/ and {FOLDERS[2]}/ with ISIC_*.jpg,
    together with {TABLES[0]}, {TABLES[1]} and {TABLES[2]}
  - {PARQUET_FILE} (columns split, {", ".join(COLUMNS)}, image)
Download the folders and tables from {HOME}, extract them and put them into {WHERE_TO_PUT}"""


def open_isic2017(root: Path, subset: SubsetSpec) -> LazyDataset:
    """List ISIC-2017's third part: 2,000 training, 150 validation and 600 test images.

    A label is 1 for melanoma and 0 for anything else (nevus or seborrheic keratosis), the paper's
    task (Section 3). Images become squares without keeping their aspect ratio.

    Args:
        root: folder with one of the accepted formats (docs/data.md).
        subset: subset sizes and image size (default 299).

    Returns:
        The data set with the challenge's own splits, images in the order of their names; ``note``
        says which files it comes from.

    Raises:
        FileNotFoundError: missing files; the message lists those that are accepted.
        ValueError: a file that is damaged or not the published one, or a subset too large.
    """
    file_format, path = find_format(root)
    image_size = subset.image_size or DEFAULT_SIZE
    subset = dataclasses.replace(subset, image_size=image_size)
    size = f"{image_size}×{image_size}"
    if file_format == "official":
        splits = _official_splits(path, image_size)
        origin = f"original files, resized to {size}"
    else:
        splits = _parquet_splits(path)
        origin = f"images reduced to {PARQUET_SIZE}×{PARQUET_SIZE} beforehand, resized to {size}"
    note = f"ISIC-2017 part 3, melanoma or not ({origin}; the aspect ratio is not kept)"
    return LazyDataset("isic2017", note, CLASS_NAMES, splits, subset)


def find_format(root: Path) -> tuple[str, Path]:
    """Return the first of the accepted formats that a folder holds.

    Args:
        root: an existing folder.

    Returns:
        ``"official"`` with the folder of the three folders and three tables, or ``"parquet"`` with
        the file.

    Raises:
        FileNotFoundError: none of the accepted files is there, or only some of them.
    """
    found = [name for name in FOLDERS if (root / name).is_dir()]
    if found:
        missing = [
            *(name for name in FOLDERS if name not in found),
            *(name for name in TABLES if not (root / name).is_file()),
        ]
        if missing:
            raise FileNotFoundError(
                f"{root / missing[0]} is missing, although {found[0]} is there. Download it from "
                f"{HOME}."
            )
        return "official", root
    if (root / PARQUET_FILE).is_file():
        return "parquet", root / PARQUET_FILE
    raise FileNotFoundError(f"root={str(root)!r} holds no ISIC-2017 files; {ACCEPTED}")


def _official_splits(root: Path, size: int) -> IndexedSplits:
    """List the challenge's folders, each with its table."""
    train, validation, test = (
        _official_split(root / folder, root / table, split, size)
        for folder, table, split in zip(FOLDERS, TABLES, COUNTS, strict=True)
    )
    return train, validation, test


def _official_split(folder: Path, table: Path, split: str, size: int) -> IndexedSplit:
    """List the photographs of one folder; they are decoded on demand."""
    paths, labels = _pair_images_with_rows(folder, table)
    advice = f"Download it again from {HOME}."
    try:
        _check_counts(labels, split)
    except ValueError as error:
        raise ValueError(f"{table} is not as published: {error} {advice}") from error

    def read(positions: np.ndarray) -> Tensor:
        return decode_all(
            len(positions),
            size,
            lambda number: decode_file(paths[positions[number]], size, advice, ("JPEG",)),
        )

    def keys(positions: np.ndarray) -> list[str]:
        return [f"{folder.name}/{paths[position].name}" for position in positions]

    def identities(positions: np.ndarray) -> list[bytes]:
        return [b"%d" % paths[position].stat().st_size for position in positions]

    return ImageIndex(labels, read, size, identities, keys), np.arange(len(labels))


def _pair_images_with_rows(folder: Path, table: Path) -> tuple[list[Path], np.ndarray]:
    """List one folder's photographs, each with its row of the table.

    Args:
        folder: holds ISIC_0000000.jpg and so on; its other files (superpixels, metadata) are
            ignored.
        table: the split's CSV file.

    Returns:
        The images' paths in the order of their names, and int64 (N,), 1 for melanoma.

    Raises:
        ValueError: a table that is not as published, an image without a row, or a row without an
            image.
    """
    rows = _read_table(table)
    images = {path.stem: path for path in folder.glob("*.jpg") if IMAGE_ID.fullmatch(path.stem)}
    for image_id, (line, _) in rows.items():
        if image_id not in images:
            raise ValueError(
                f"{table}, line {line}: {folder.name} holds no {image_id}.jpg. Extract the whole "
                f"archive again; it is at {HOME}."
            )
    names = sorted(images)
    without_row = [name for name in names if name not in rows]
    if without_row:
        raise ValueError(
            f"{images[without_row[0]]} has no row in {table}. Download the table again from {HOME}."
        )
    melanoma = np.asarray([rows[name][1] for name in names], dtype=np.int64)
    return [images[name] for name in names], melanoma


def _read_table(table: Path) -> dict[str, tuple[int, int]]:
    """Read a table of the challenge's third part.

    Args:
        table: CSV with the columns image_id, melanoma and seborrheic_keratosis, the last two
            0.0 or 1.0 and never both 1.0.

    Returns:
        Image id → (line of the file, 1 for melanoma or 0).

    Raises:
        ValueError: anything else; the message names the line.
    """
    rows: dict[str, tuple[int, int]] = {}
    line = 1
    try:
        with table.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.reader(opened, strict=True)
            header = tuple(next(reader, ()))
            if header != COLUMNS:
                raise ValueError(f"its columns are {header}; accepted: {COLUMNS}")
            for row in reader:
                line = reader.line_num
                image_id, melanoma = _parse_row(row)
                if image_id in rows:
                    raise ValueError(f"{image_id} is already on line {rows[image_id][0]}")
                rows[image_id] = (line, melanoma)
    except (csv.Error, OSError, ValueError) as error:
        raise ValueError(
            f"{table}, line {line}: {error}. Download the table again from {HOME}."
        ) from error
    return rows


def _parse_row(row: list[str]) -> tuple[str, int]:
    """Return a row's image id, and 1 for melanoma or 0."""
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
    _check_diagnosis(image_id, *values)
    return image_id, values[0]


def _parquet_splits(file: Path) -> IndexedSplits:
    """List the Parquet file's rows, and find each split's rows among them."""
    with parquet_errors("ISIC-2017 part 3", file):
        table = read_columns(file, ("split", *COLUMNS, "image"))
        split_column, image_ids, melanoma_column, keratosis_column = (
            table[name].to_pylist() for name in ("split", *COLUMNS)
        )
        rows: dict[str, list[int]] = {split: [] for split in COUNTS}
        previous = dict.fromkeys(COUNTS, "")
        for row, (split, image_id, melanoma, keratosis) in enumerate(
            zip(split_column, image_ids, melanoma_column, keratosis_column, strict=True)
        ):
            if split not in COUNTS:
                raise ValueError(f"row {row}: split is {split!r}; accepted: {', '.join(COUNTS)}")
            _check_diagnosis(f"row {row}: {image_id}", melanoma, keratosis)
            # The order of the original files, so that both formats give the same subsets.
            if not previous[split] < image_id:
                raise ValueError(
                    f"row {row}: {image_id} follows {previous[split]}; accepted: each image once, "
                    "in the order of image_id within its split"
                )
            previous[split] = image_id
            rows[split].append(row)
        labels = np.asarray(melanoma_column, dtype=np.int64)
        for split, positions in rows.items():
            _check_counts(labels[positions], split)
        column = ImageColumn(file)

    def read(positions: np.ndarray) -> Tensor:
        names = [f"{file}, row {row}" for row in positions]
        return decode_exact(column.read(positions), names, PARQUET_SIZE, "JPEG")

    def keys(positions: np.ndarray) -> list[str]:
        return [f"{image_ids[position]}.jpg" for position in positions]

    index = ImageIndex(
        labels,
        read,
        PARQUET_SIZE,
        column.identities,
        keys,
        resident_bytes=column.resident_bytes,
    )
    train, validation, test = (np.asarray(each, dtype=np.int64) for each in rows.values())
    return (index, train), (index, validation), (index, test)


def _check_diagnosis(image_id: str, melanoma: int, keratosis: int) -> None:
    """Raise ValueError unless a lesion is one of melanoma, seborrheic keratosis or neither."""
    if (melanoma, keratosis) not in ((0, 0), (0, 1), (1, 0)):
        raise ValueError(
            f"{image_id} has melanoma {melanoma} and seborrheic_keratosis {keratosis}; accepted: "
            "0 or 1, and at most one of them 1"
        )


def _check_counts(labels: np.ndarray, split: str) -> None:
    """Raise ValueError unless a split has the published numbers of images and melanomas."""
    images, melanomas = COUNTS[split]
    if (len(labels), int(labels.sum())) != (images, melanomas):
        raise ValueError(
            f"the {split} split has {len(labels):,} images, {int(labels.sum()):,} of them "
            f"melanoma; accepted: {images:,} and {melanomas:,}."
        )
