"""ISIC-2017, part 3: photographs of skin lesions, melanoma or not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from torch import Tensor

from sign_ext.data import isic2017_files as files
from sign_ext.data.decode import decode_all, decode_exact, decode_file
from sign_ext.data.formats.parquet import Cells, read_columns, usable_as
from sign_ext.data.lazy import Parts, Pool, Unread
from sign_ext.data.splits import Wanted

CLASS_NAMES = ("benign", "melanoma")
# Height and width of Inception-ResNet-v2's images, the network that the paper trains on this set.
DEFAULT_SIZE = 299
PARQUET_SIZE = 256
# Images and melanomas as published, of training, validation and test.
COUNTS = {"train": (2_000, 374), "validation": (150, 30), "test": (600, 117)}


def open_isic2017(root: Path, wanted: Wanted) -> Unread:
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
    form, path = files.find_format(root)
    wanted = dataclasses.replace(wanted, image_size=wanted.image_size or DEFAULT_SIZE)
    size = f"{wanted.image_size}×{wanted.image_size}"
    if form == "official":
        parts = _official(path, wanted.image_size or DEFAULT_SIZE)
        source = f"original files, resized to {size}"
    else:
        parts = _parquet(path)
        source = f"images reduced to {PARQUET_SIZE}×{PARQUET_SIZE} beforehand, resized to {size}"
    note = f"ISIC-2017 part 3, melanoma or not ({source}; the aspect ratio is not kept)"
    return Unread("isic2017", note, CLASS_NAMES, parts, wanted)


def _official(root: Path, size: int) -> Parts:
    """Pair the challenge's folders with their tables."""
    first, second, third = (
        _official_part(root / folder, root / table, split, size)
        for folder, table, split in zip(files.FOLDERS, files.TABLES, COUNTS, strict=True)
    )
    return first, second, third


def _official_part(folder: Path, table: Path, split: str, size: int) -> tuple[Pool, np.ndarray]:
    """Make the pool of one folder; photographs are decoded when they are asked for."""
    paths, labels = files.read_part(folder, table)
    instead = f"Get it again from {files.HOME}."
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

    return Pool(labels, read, size, identities, keys), np.arange(len(labels))


def _parquet(file: Path) -> Parts:
    """Make one pool of the Parquet file's rows, and find each split's rows in it."""
    with usable_as("ISIC-2017 part 3", file):
        table = read_columns(file, ("split", *files.COLUMNS, "image"))
        rows = [table[name].to_pylist() for name in ("split", *files.COLUMNS)]
        where: dict[str, list[int]] = {split: [] for split in COUNTS}
        last = dict.fromkeys(COUNTS, "")
        for row, (split, image_id, melanoma, keratosis) in enumerate(zip(*rows, strict=True)):
            if split not in COUNTS:
                raise ValueError(f"row {row}: split is {split!r}; accepted: {', '.join(COUNTS)}")
            files.check_diagnosis(f"row {row}: {image_id}", melanoma, keratosis)
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
    pool = Pool(labels, read, PARQUET_SIZE, cells.identities, keys, resident_bytes=resident)
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
