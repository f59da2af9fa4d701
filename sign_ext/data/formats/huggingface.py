"""A folder that Hugging Face's datasets wrote with save_to_disk, as a data set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sign_ext.data.decode import FORMATS, decode_all, decode_rgb, readable
from sign_ext.data.lazy import LARGEST_LABEL, ImageIndex, LazyDataset, parts_of
from sign_ext.data.splits import SubsetSpec

ONE, SEVERAL = "state.json", "dataset_dict.json"
MARKS = (ONE, SEVERAL)
DEFAULT_SIZE = 32
REPAIR = "Replace it, or filter the row out and save the data set again."
SPLITS = "accepted: train and test with, optionally, validation (or val); or one split of any name"


def is_saved(folder: Path) -> bool:
    """Tell whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote a folder.

    Args:
        folder: the folder.
    """
    return any((folder / mark).is_file() for mark in MARKS)


def open_saved(folder: Path, wanted: SubsetSpec) -> LazyDataset:
    """List the rows of a saved data set; it stays on disk, mapped into memory.

    The splits train, test and validation (or val) are used as they are, without a validation split
    15% of the training images are held out; a single split is divided 70/15/15 within each class.
    Nothing is unpickled or downloaded, and no code that came with the data set is run.

    Args:
        folder: what ``save_to_disk`` wrote. The images are the only column of the feature Image
            (else the one called ``image``), the labels the column ``label`` (else the only
            ClassLabel): classes, or integers from 0.
        wanted: subset sizes and image size (default 32; the aspect ratio is not kept).

    Returns:
        The splits, unread, called after the folder.

    Raises:
        ModuleNotFoundError: the library datasets is not installed.
        ValueError: a damaged folder, other splits or columns, a row without label, too few images,
            or a subset too large.
    """
    size = wanted.image_size or DEFAULT_SIZE
    called = folder.resolve().name
    tables = _load(folder)
    pools, class_names = {}, {}
    for split, table in tables.items():
        where = f"{folder}, {split}" if split else str(folder)
        with _usable(where):
            pools[split], class_names[split] = _pool(table, where, size)
    names = _common(class_names, pools, folder)
    parts = parts_of(pools, names, str(folder))
    total = sum(len(where) for _, where in parts)
    note = f"images of {called} ({total:,} in {len(names)} classes, saved by Hugging Face's "
    note += f"datasets, resized to {size}×{size})"
    return LazyDataset(called, note, names, parts, wanted)


def _load(folder: Path) -> dict[str, Any]:
    """Map the Arrow files: split → Dataset, or "" → the only one."""
    try:
        import datasets  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{folder} was saved by Hugging Face's datasets, which is not installed; try "
            "pip install 'sign-ext[huggingface]'",
            name="datasets",
        ) from error

    # Absolute, so that no part of the name can be taken for a remote file system's.
    with _usable(str(folder)):
        found = datasets.load_from_disk(str(folder.resolve()), keep_in_memory=False)
    if not isinstance(found, dict):
        return {"": found}
    if len(found) == 1:
        return {"": next(iter(found.values()))}
    held = [name for name in found if name in ("validation", "val")]
    if {*found} - {*held} != {"train", "test"} or len(held) > 1:
        raise ValueError(f"{folder} has the splits {', '.join(found)}; {SPLITS}.")
    return dict(found)


@contextmanager
def _usable(where: str) -> Iterator[None]:
    """Turn what goes wrong with a damaged folder into one error that names it."""
    import pyarrow

    # Files of JSON and Arrow that are not what they should be can fail in any of these ways.
    damaged = (pyarrow.ArrowException, OSError, ValueError, TypeError, LookupError, AttributeError)
    try:
        yield
    except damaged as error:
        raise ValueError(f"{where} cannot be used as a saved data set: {error}.") from error


def _columns(features: Any) -> tuple[str, str]:
    """Find the columns of the images and of the labels."""
    from datasets import ClassLabel, Image

    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    classes = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    image = images[0] if len(images) == 1 else "image"
    if image not in images:
        raise ValueError(
            f"it has the columns {', '.join(features)}, of which {', '.join(images) or 'none'} "
            "have the feature Image; accepted: one, or one called image. Use cast_column(name, "
            "Image()) or remove_columns and save it again"
        )
    if "label" in features:
        return image, "label"
    if len(classes) != 1:
        raise ValueError(
            f"it has the columns {', '.join(features)}, of which {', '.join(classes) or 'none'} "
            "have the feature ClassLabel; accepted: one, or a column called label. Use "
            "rename_column(name, 'label') and save it again"
        )
    return image, classes[0]


def _pool(table: Any, where: str, size: int) -> tuple[ImageIndex, tuple[str, ...] | None]:
    """Make the pool of one split; also give its class names if it has any."""
    from datasets import ClassLabel, Image

    image, label = _columns(table.features)
    feature = table.features[label]
    names = tuple(feature.names) if isinstance(feature, ClassLabel) else None
    labels = _labels(table, label, LARGEST_LABEL + 1 if names is None else len(names))
    # Without decoding, rows are the encoded bytes as they lie in the file.
    rows = table.with_format(None).select_columns([image]).cast_column(image, Image(decode=False))
    arrow = rows.with_format("arrow")

    def read(positions: np.ndarray) -> Tensor:
        def decode(index: int) -> np.ndarray:
            row = int(positions[index])
            with readable(f"{where}, row {row} cannot be read as an image", REPAIR):
                return decode_rgb(_source(rows[row][image]), size, FORMATS)

        return decode_all(len(positions), size, decode)

    def identities(positions: np.ndarray) -> list[bytes]:
        import pyarrow.compute

        cells = arrow[positions.tolist()][image]
        sizes = pyarrow.compute.binary_length(pyarrow.compute.struct_field(cells, "bytes"))
        paths = pyarrow.compute.struct_field(cells, "path")
        pairs = zip(sizes.to_pylist(), paths.to_pylist(), strict=True)
        return [f"{length} {path}".encode("utf-8", "surrogateescape") for length, path in pairs]

    return ImageIndex(labels, read, size, identities), names


def _labels(table: Any, column: str, classes: int) -> np.ndarray:
    """Read a column of labels, int64 (N,)."""
    import pyarrow

    cells = table.with_format("arrow").select_columns([column])[:][column]
    if not pyarrow.types.is_integer(cells.type):
        raise ValueError(f"its column {column} holds {cells.type}; accepted: integers or classes")
    if not len(cells):
        raise ValueError("it has no rows")
    labels = np.asarray(cells.fill_null(-1).to_numpy(), dtype=np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise ValueError(
            f"row {wrong[0]} has the {column} {cells[int(wrong[0])].as_py()}; accepted: 0 to "
            f"{classes - 1}"
        )
    return labels


def _source(cell: dict[str, Any] | None) -> bytes | Path:
    """Return an image's bytes, or the file on this machine that it lies in."""
    if cell is None:
        raise ValueError("the cell is empty")
    if cell["bytes"] is not None:
        return bytes(cell["bytes"])
    if not cell["path"] or "://" in cell["path"]:
        raise ValueError(f"its bytes are not in the data set but at {cell['path']}")
    return Path(cell["path"])


def _common(
    class_names: dict[str, tuple[str, ...] | None], pools: dict[str, ImageIndex], folder: Path
) -> tuple[str, ...]:
    """Return the class names, which all splits must share; numbers if there are none."""
    different = set(class_names.values())
    if len(different) > 1:
        raise ValueError(
            f"{folder} has other classes in {' than in '.join(class_names)}; accepted: the same "
            "in every split."
        )
    names = different.pop()
    if names is not None:
        return names
    return tuple(str(i) for i in range(1 + max(int(pool.labels.max()) for pool in pools.values())))
