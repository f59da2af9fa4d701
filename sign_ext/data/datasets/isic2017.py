"""ISIC-2017, part 3: photographs of skin lesions, melanoma or not."""

from __future__ import annotations

import csv
import dataclasses
import re
from pathlib import Path

import numpy as np
from torch import Tensor

from sign_ext.data.datasets.root import PUT_IT
from sign_ext.data.decode import decode_all, decode_exact, decode_file
from sign_ext.data.formats.parquet import Cells, read_columns, usable_as
from sign_ext.data.lazy import ImageIndex, LazyDataset, Parts
from sign_ext.data.splits import SubsetSpec

# ISIC-2017 part 3 on disk: the challenge's folders and tables, or one Parquet file.


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


CLASS_NAMES = ("benign", "melanoma")
# Height and width of Inception-ResNet-v2's images, the network that the paper trains on this set.
DEFAULT_SIZE = 299
PARQUET_SIZE = 256
# Images and melanomas as published, of training, validation and test.
COUNTS = {"train": (2_000, 374), "validation": (150, 30), "test": (600, 117)}


def open_isic2017(root: Path, wanted: SubsetSpec) -> LazyDataset:
    """Find ISIC-2017's third part: 2,000 training, 150 validation and 600 test images.

    A label is 1 for melanoma and 0 for anything else (nevus or seborrheic keratosis), the paper's
    task (Section 3). Images become squares without keeping their aspect ratio.

    Args:
        root: folder with one of the accepted forms of the data (docs/data.md).
        wanted: subset sizes and image size (default 299).

    Returns:
        The challenge's own splits, unread, images in the order of their names; ``note`` says which
        files they came from.

    Raises:
        FileNotFoundError: the files are not there; the message lists those accepted.
        ValueError: a file that is damaged or not the published one, or a subset too large.
    """
    form, path = find_format(root)
    wanted = dataclasses.replace(wanted, image_size=wanted.image_size or DEFAULT_SIZE)
    size = f"{wanted.image_size}×{wanted.image_size}"
    if form == "official":
        parts = _official(path, wanted.image_size or DEFAULT_SIZE)
        source = f"original files, resized to {size}"
    else:
        parts = _parquet(path)
        source = f"images reduced to {PARQUET_SIZE}×{PARQUET_SIZE} beforehand, resized to {size}"
    note = f"ISIC-2017 part 3, melanoma or not ({source}; the aspect ratio is not kept)"
    return LazyDataset("isic2017", note, CLASS_NAMES, parts, wanted)


def _official(root: Path, size: int) -> Parts:
    """Pair the challenge's folders with their tables."""
    first, second, third = (
        _official_part(root / folder, root / table, split, size)
        for folder, table, split in zip(FOLDERS, TABLES, COUNTS, strict=True)
    )
    return first, second, third


def _official_part(
    folder: Path, table: Path, split: str, size: int
) -> tuple[ImageIndex, np.ndarray]:
    """Make the pool of one folder; photographs are decoded when they are asked for."""
    paths, labels = read_part(folder, table)
    instead = f"Get it again from {HOME}."
    try:
        check_counts(labels, split)
    except ValueError as error:
        raise ValueError(f"{table} is not as published: {error} {instead}") from error

    def read(where: np.ndarray) -> Tensor:
        return decode_all(
            len(where),
            size,
            lambda position: decode_file(paths[where[position]], size, instead, ("JPEG",)),
        )

    def keys(where: np.ndarray) -> list[str]:
        return [f"{folder.name}/{paths[position].name}" for position in where]

    def identities(where: np.ndarray) -> list[bytes]:
        return [b"%d" % paths[position].stat().st_size for position in where]

    return ImageIndex(labels, read, size, identities, keys), np.arange(len(labels))


def _parquet(file: Path) -> Parts:
    """Make one pool of the Parquet file's rows, and find each split's rows in it."""
    with usable_as("ISIC-2017 part 3", file):
        table = read_columns(file, ("split", *COLUMNS, "image"))
        rows = [table[name].to_pylist() for name in ("split", *COLUMNS)]
        where: dict[str, list[int]] = {split: [] for split in COUNTS}
        last = dict.fromkeys(COUNTS, "")
        for row, (split, image_id, melanoma, keratosis) in enumerate(zip(*rows, strict=True)):
            if split not in COUNTS:
                raise ValueError(f"row {row}: split is {split!r}; accepted: {', '.join(COUNTS)}")
            check_diagnosis(f"row {row}: {image_id}", melanoma, keratosis)
            # The order of the original files, so that both forms give the same subsets.
            if not last[split] < image_id:
                raise ValueError(
                    f"row {row}: {image_id} follows {last[split]}; accepted: each image once, in "
                    "the order of image_id within its split"
                )
            last[split] = image_id
            where[split].append(row)
        labels = np.asarray(rows[2], dtype=np.int64)
        for split, chosen in where.items():
            check_counts(labels[chosen], split)
        cells = Cells(file)

    def read(where: np.ndarray) -> Tensor:
        names = [f"{file}, row {row}" for row in where]
        return decode_exact(cells.read(where), names, PARQUET_SIZE, "JPEG")

    def keys(where: np.ndarray) -> list[str]:
        return [f"{rows[1][position]}.jpg" for position in where]

    resident = cells.resident_bytes
    pool = ImageIndex(labels, read, PARQUET_SIZE, cells.identities, keys, resident_bytes=resident)
    train, validation, test = (np.asarray(each, dtype=np.int64) for each in where.values())
    return (pool, train), (pool, validation), (pool, test)


def check_counts(labels: np.ndarray, split: str) -> None:
    """Raise ValueError unless a part has as many images and melanomas as were published.

    Args:
        labels: int64 (N,), 1 for melanoma.
        split: ``"train"``, ``"validation"`` or ``"test"``.
    """
    images, melanomas = COUNTS[split]
    if (len(labels), int(labels.sum())) != (images, melanomas):
        raise ValueError(
            f"the {split} part has {len(labels):,} images, {int(labels.sum()):,} of them melanoma; "
            f"accepted: {images:,} and {melanomas:,}."
        )
