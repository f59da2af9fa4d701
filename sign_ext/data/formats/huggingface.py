"""Folders written by save_to_disk of Hugging Face's library datasets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sign_ext.data.classes import check_numbered
from sign_ext.data.decode import (
    FORMATS,
    Conversions,
    Decoding,
    decode_all,
    decode_errors,
    decode_rgb,
)
from sign_ext.data.lazy import (
    DEFAULT_SIZE,
    LARGEST_LABEL,
    ImageIndex,
    LazyDataset,
    parts_cut,
    splits_from,
)
from sign_ext.data.splits import SubsetSpec, split_names
from sign_ext.formatting import counted

# The files by which such a folder is recognised: of a Dataset and of a DatasetDict.
MARKERS = ("state.json", "dataset_dict.json")
ACCEPTED = (
    "accepted: train with validation, test or both, in their common spellings; or one split of any "
    "name"
)
_ADVICE = "Replace it, or filter the row out and save the data set again."


def is_huggingface(folder: Path) -> bool:
    """Return whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote a folder.

    Args:
        folder: the folder.
    """
    return any((folder / marker).is_file() for marker in MARKERS)


def open_huggingface(folder: Path, subset: SubsetSpec) -> LazyDataset:
    """List the rows of a saved data set; its Arrow files stay on disk and are memory-mapped.

    The splits train, test and validation (or val) are used as they are; without a validation split
    15% of the training images are held out. A single split is split 70/15/15 within each class.
    Nothing is unpickled or downloaded, and no code that came with the data set is run.

    Args:
        folder: what ``save_to_disk`` wrote. The images are the only column with the feature Image
            (or else the one called ``image``), the labels the column ``label`` (or else the only
            ClassLabel): classes, or integers from 0.
        subset: subset sizes and image size (default 32; the aspect ratio is not kept).

    Returns:
        The data set, named after the folder.

    Raises:
        ModuleNotFoundError: the library datasets is not installed.
        ValueError: a damaged folder, other splits or columns, a row without label, too few images,
            or a subset too large.
    """
    size = subset.image_size or DEFAULT_SIZE
    name = folder.resolve().name
    indexes, names_in_split = {}, {}
    for split, table in _load(folder).items():
        location = f"{folder}, {split}" if split else str(folder)
        with _format_errors(location):
            indexes[split], names_in_split[split] = _index(table, location, size, subset.decoding)
    class_names = _class_names(names_in_split, indexes, folder)
    splits = splits_from(indexes, class_names, str(folder))
    total = sum(len(positions) for _, positions in splits)
    note = f"images of {name} ({total:,} in {counted(len(class_names), 'class', 'classes')}, saved "
    note += f"by Hugging Face's datasets, resized to {size}×{size})"
    return LazyDataset(name, note, class_names, splits, subset, cut=parts_cut(indexes))


def _load(folder: Path) -> dict[str, Any]:
    """Map the Arrow files into memory: split → Dataset, or "" → the only one."""
    try:
        import datasets  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{folder} was saved by Hugging Face's datasets, which is not installed: "
            "pip install datasets",
            name="datasets",
        ) from error

    # An absolute path, so that no part of it is taken for the address of a remote file system.
    with _format_errors(str(folder)):
        loaded = datasets.load_from_disk(str(folder.resolve()), keep_in_memory=False)
    if not isinstance(loaded, dict):
        return {"": loaded}
    if len(loaded) == 1:
        return {"": next(iter(loaded.values()))}
    names = split_names(list(loaded))
    by_split = {split: loaded[name] for name, split in names.items()}
    if len(by_split) != len(loaded) or "train" not in by_split:
        raise ValueError(f"{folder} has the splits {', '.join(loaded)}; {ACCEPTED}.")
    return by_split


@contextmanager
def _format_errors(location: str) -> Iterator[None]:
    """Turn every exception about a damaged folder into a ValueError that names it."""
    import pyarrow

    # Malformed JSON and Arrow files can fail in any of these ways.
    damaged = (pyarrow.ArrowException, OSError, ValueError, TypeError, LookupError, AttributeError)
    try:
        yield
    except damaged as error:
        raise ValueError(f"{location} cannot be used as a saved data set: {error}.") from error


def columns_of(features: Any) -> tuple[str, str]:
    """Find the columns of the images and of the labels.

    Args:
        features: of a `datasets.Dataset`.

    Raises:
        ValueError: none, or several that could be it.
    """
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


def _index(
    table: Any, location: str, size: int, decoding: Decoding
) -> tuple[ImageIndex, tuple[str, ...] | None]:
    """List the rows of one split; also return its class names if it has any."""
    from datasets import ClassLabel, Image

    image, label = columns_of(table.features)
    feature = table.features[label]
    class_names = tuple(feature.names) if isinstance(feature, ClassLabel) else None
    classes = LARGEST_LABEL + 1 if class_names is None else len(class_names)
    labels = labels_of(table, label, classes)
    # decode=False gives a row's encoded bytes instead of an image that the library decodes.
    rows = table.with_format(None).select_columns([image]).cast_column(image, Image(decode=False))
    arrow = rows.with_format("arrow")
    conversions = Conversions(len(labels))

    def read(positions: np.ndarray) -> Tensor:
        def decode(number: int) -> np.ndarray:
            row = int(positions[number])
            with decode_errors(f"{location}, row {row} cannot be read as an image", _ADVICE):
                data = image_data(rows[row][image])
                return decode_rgb(data, size, FORMATS, decoding, conversions.of(row))

        return decode_all(len(positions), size, decode)

    def identities(positions: np.ndarray) -> list[bytes]:
        import pyarrow.compute

        cells = arrow[positions.tolist()][image]
        lengths = pyarrow.compute.binary_length(pyarrow.compute.struct_field(cells, "bytes"))
        paths = pyarrow.compute.struct_field(cells, "path")
        pairs = zip(lengths.to_pylist(), paths.to_pylist(), strict=True)
        return [f"{length} {path}".encode("utf-8", "surrogateescape") for length, path in pairs]

    return ImageIndex(labels, read, size, identities, conversions=conversions), class_names


def labels_of(table: Any, column: str, classes: int) -> np.ndarray:
    """Read a column of labels, int64 (N,).

    Args:
        table: a `datasets.Dataset`.
        column: its name.
        classes: how many there are at most.

    Raises:
        ValueError: no integers, none at all, or one out of range.
    """
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


def image_data(cell: dict[str, Any] | None) -> bytes | Path:
    """Return an image's bytes, or the path of the local file that holds them.

    Args:
        cell: of a column of images that are not decoded.

    Raises:
        ValueError: an empty cell, or an image that is elsewhere.
    """
    if cell is None:
        raise ValueError("the cell is empty")
    if cell["bytes"] is not None:
        return bytes(cell["bytes"])
    if not cell["path"] or "://" in cell["path"]:
        raise ValueError(f"its bytes are not in the data set but at {cell['path']}")
    return Path(cell["path"])


def _class_names(
    names_in_split: dict[str, tuple[str, ...] | None],
    indexes: dict[str, ImageIndex],
    folder: Path,
) -> tuple[str, ...]:
    """Return the class names, which all splits must share; numbers if there are none."""
    distinct = set(names_in_split.values())
    if len(distinct) > 1:
        raise ValueError(
            f"{folder} has different classes in {' and '.join(names_in_split)}; accepted: the "
            "same classes in every split."
        )
    class_names = distinct.pop()
    if class_names is not None:
        return class_names
    labels = np.concatenate([index.labels for index in indexes.values()])
    cure = "cast the column to ClassLabel, which names all classes, and save the data set again"
    count = check_numbered(labels, str(folder), cure)
    return tuple(str(label) for label in range(count))
