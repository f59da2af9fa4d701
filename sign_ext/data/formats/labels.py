"""A folder of images whose labels are in a CSV, TSV or JSON file."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sign_ext.data.formats.image_folder import index_files
from sign_ext.data.lazy import (
    DEFAULT_SIZE,
    SPLIT_NAMES,
    ImageIndex,
    LazyDataset,
    parts_cut,
    splits_from,
)
from sign_ext.data.listing import is_hidden, list_images, with_left_out
from sign_ext.data.splits import SubsetSpec, split_names
from sign_ext.formatting import counted

ACCEPTED = (
    "accepted: a CSV or TSV file with a column of file names and one of classes; a JSON file with "
    'such records, or {"file": "class"}, or {"class": ["file", …]}; or JSON lines'
)
# The names of columns that are taken for labels and for splits, the first ones first.
_LABELS = (
    *("label", "labels", "class", "classes", "category", "target", "class_name", "label_name"),
    *("classname", "category_name", "species", "breed", "diagnosis", "dx", "y"),
)
_SPLITS = ("split", "subset", "set", "partition", "fold", "usage")
_TRIED = 200  # rows by which the column of file names is found
_COLUMNS_HINT = "name them with label_columns (--label-columns IMAGE LABEL)"


@dataclass(frozen=True)
class Table:
    """A table of labels as text.

    Args:
        header: a name for each column.
        rows: (line or record number, cells).
    """

    header: list[str]
    rows: list[tuple[int, list[str]]]


class _Files:
    """Finds the image that a cell names, among the images below a folder."""

    def __init__(self, images: list[tuple[str, int]]) -> None:
        """Index the images by base name, with and without extension."""
        self.sizes = dict(images)
        self._by_base: dict[str, list[str]] = {}
        for path, _ in images:
            base = path.rpartition("/")[2]
            for name in {base, os.path.splitext(base)[0]}:
                self._by_base.setdefault(name, []).append(path)

    def find(self, cell: str) -> list[str]:
        """Return the images that a cell may mean: by its path, or the end of it, or of theirs."""
        name = cell.strip().replace("\\", "/").removeprefix("./")
        if not name or name in self.sizes:
            return [name] if name else []
        found = []
        for path in self._by_base.get(name.rpartition("/")[2], ()):
            for ours in (path, os.path.splitext(path)[0]):
                if f"/{ours}".endswith(f"/{name}") or f"/{name}".endswith(f"/{ours}"):
                    found.append(path)
                    break
        exact = [path for path in found if os.path.splitext(path)[0] == name]
        return exact or found


def open_labelled_folder(
    root: Path, table: Path, columns: Sequence[str] | None, subset: SubsetSpec
) -> LazyDataset:
    """List the images below a folder that a file of labels names.

    A column called split (or subset, set …) divides them, or else folders called train, test and so
    on directly below ROOT; without either, each class is split 70/15/15. Images that the file does
    not name are left out and counted.

    Args:
        root: the folder; the file may name an image by its path below it, by its file name if that
            occurs once, and without extension.
        table: CSV, TSV, JSON or JSON lines.
        columns: the columns of the file names and of the classes; None to guess them.
        subset: subset sizes, image size and what images are accepted.

    Returns:
        The data set, named after the folder. Classes are in the order of their names, or of their
        numbers if all are whole numbers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file or a row that cannot be used, or too few images.
    """
    size = subset.image_size or DEFAULT_SIZE
    left_out: Counter[str] = Counter()
    (images,) = list_images([(root, "")], left_out)
    if not images:
        raise ValueError(f"{root} holds no images, so {table} cannot label any.")
    if table.resolve().is_relative_to(root.resolve()):
        inside = table.resolve().relative_to(root.resolve()).parts
        left_out["hidden" if any(map(is_hidden, inside)) else "other"] -= 1  # the table is read
    files = _Files(images)
    read = read_table(table)
    if any(files.find(cell) for cell in read.header):  # the first row is no header
        header = [str(number + 1) for number in range(len(read.header))]
        read = Table(header, [(1, read.header), *read.rows])
    chosen = _choose_columns(read, files, columns, table, root)
    labelled, split_of = _pair(read, chosen, files, table, root)
    left_out["unlabelled"] += len(images) - len(labelled)
    class_names = _class_names(labelled.values(), table, read.header[chosen.label[0]])
    indexes = _indexes(root, files, labelled, split_of, class_names, size, subset)
    splits = splits_from(indexes, class_names, str(root))
    name = root.resolve().name
    note = with_left_out(
        f"images of {name} ({len(labelled):,} in "
        f"{counted(len(class_names), 'class', 'classes')}, labelled by {table.name}, resized to "
        f"{size}×{size})",
        left_out,
    )
    hint = f"{table.name}: {chosen.in_words(read.header)}"
    if columns is None:
        hint += " (guessed; --label-columns IMAGE LABEL sets them)"
    return LazyDataset(
        name,
        note,
        class_names,
        splits,
        subset,
        left_out=left_out,
        cut=parts_cut(indexes),
        hints=(hint,),
    )


def read_table(file: Path) -> Table:
    """Read a file of labels as text, without saying yet which column is which.

    Args:
        file: CSV, TSV, JSON or JSON lines, by its extension.

    Returns:
        The table; the first row of a CSV or TSV is taken for its header.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read as a table.
    """
    if not file.is_file():
        raise FileNotFoundError(f"labels={str(file)!r} is not a file; {ACCEPTED}.")
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() == ".json":
            return _records(json.loads(text))
        if file.suffix.lower() == ".jsonl":
            return _records([json.loads(line) for line in text.splitlines() if line.strip()])
        return _separated(text)
    except (ValueError, csv.Error, RecursionError, OSError) as error:
        raise ValueError(f"{file} cannot be read as a table of labels: {error}; {ACCEPTED}.") from (
            error
        )


def _separated(text: str) -> Table:
    """Read a CSV or TSV; the separator is the one that occurs most in the first line."""
    first = text.partition("\n")[0]
    separator = max(",\t;", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[tuple[int, list[str]]] = []
    for row in reader:
        if not any(cell.strip() for cell in row):
            continue
        if rows and len(row) != len(rows[0][1]):
            raise ValueError(
                f"line {reader.line_num} has {len(row)} cells, the first line {len(rows[0][1])}"
            )
        rows.append((reader.line_num, [cell.strip() for cell in row]))
    if not rows or len(rows[0][1]) < 2:
        raise ValueError("it has no two columns")
    return Table(rows[0][1], rows[1:])


def _records(content: Any) -> Table:
    """Turn the accepted forms of JSON into a table."""
    if isinstance(content, dict) and isinstance(content.get("labels"), list):
        content = content["labels"]  # as in dataset.json of StyleGAN: [["file", label], …]
    if isinstance(content, dict) and content:
        lists = [isinstance(value, list) for value in content.values()]
        if all(lists):
            pairs = [(file, name) for name, names in content.items() for file in names]
        elif not any(lists):
            pairs = list(content.items())
        else:
            raise ValueError("some of its values are lists and some are not")
        return Table(
            ["file", "label"],
            [(n, [_text(cell) for cell in pair]) for n, pair in enumerate(pairs, 1)],
        )
    if isinstance(content, list) and content and all(isinstance(each, dict) for each in content):
        header = list(dict.fromkeys(str(key) for each in content for key in each))
        scalar = [
            key
            for key in header
            if not any(isinstance(each.get(key), dict | list) for each in content)
        ]
        rows = [(n, [_text(each.get(key)) for key in scalar]) for n, each in enumerate(content, 1)]
        return Table(scalar, rows)
    if isinstance(content, list) and all(isinstance(e, list) and len(e) == 2 for e in content):
        rows = [(n, [_text(cell) for cell in pair]) for n, pair in enumerate(content, 1)]
        return Table(["file", "label"], rows)
    raise ValueError("it holds neither records nor files with their classes")


def _text(value: Any) -> str:
    """Write a JSON value as a cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int | float):
        return str(value).strip()
    raise ValueError(f"{json.dumps(value)[:60]} is no file name or class")


@dataclass(frozen=True)
class _Columns:
    """Positions of the columns that are used.

    Args:
        image: file names.
        label: classes; several columns of 0 and 1 mean the class that the column is called.
        split: train, test and so on; None if there is no such column.
    """

    image: int
    label: tuple[int, ...]
    split: int | None

    def in_words(self, header: list[str]) -> str:
        """Say which column is taken for what."""
        labels = ", ".join(repr(header[column]) for column in self.label)
        words = f"column {header[self.image]!r} names the image, {labels} the class"
        return words + (f", {header[self.split]!r} the split" if self.split is not None else "")


def _choose_columns(
    table: Table, files: _Files, columns: Sequence[str] | None, file: Path, root: Path
) -> _Columns:
    """Find the columns of images, labels and splits by what is asked for, names and contents."""
    shown = ", ".join(table.header)
    tried = [cells for _, cells in table.rows[:_TRIED]]
    split = _split_column(table)
    if columns is not None:
        missing = [column for column in columns if column not in table.header]
        if missing or len(columns) != 2:
            raise ValueError(
                f"label_columns={tuple(columns)} of {file}; accepted: two of its columns, "
                f"{shown}: the file names' and the labels'."
            )
        image, label = (table.header.index(column) for column in columns)
        return _Columns(image, (label,), split if split not in (image, label) else None)
    hits = [sum(bool(files.find(cells[c])) for cells in tried) for c in range(len(table.header))]
    if not any(hits):
        example = ", ".join(tried[0]) if tried else "nothing"
        raise ValueError(
            f"{file} has the columns {shown} (first row: {example[:200]}), none of which names an "
            f"image below {root}, such as {next(iter(files.sizes))}. Pass the folder that the "
            f"names are relative to, or {_COLUMNS_HINT}."
        )
    image = hits.index(max(hits))
    rest = [c for c in range(len(table.header)) if c not in (image, split)]
    named = [c for name in _LABELS for c in rest if table.header[c].lower() == name]
    if named:
        return _Columns(image, (named[0],), split)
    if len(rest) == 1:
        return _Columns(image, (rest[0],), split)
    if len(rest) > 1 and all(_is_one_hot([cells[c] for c in rest]) for _, cells in table.rows):
        return _Columns(image, tuple(rest), split)
    raise ValueError(
        f"{file} has the columns {shown}, and which of them holds the classes cannot be told; "
        f"{_COLUMNS_HINT}."
    )


def _split_column(table: Table) -> int | None:
    """Find a column that names a split in every row."""
    for position, name in enumerate(table.header):
        values = sorted({cells[position] for _, cells in table.rows})
        if name.lower() in _SPLITS and values and len(split_names(values)) == len(values):
            return position
    return None


def _is_one_hot(cells: list[str]) -> bool:
    """Return whether one of the cells is 1 and the others are 0."""
    return sorted(cell.rstrip("0").rstrip(".") or "0" for cell in cells) == [
        *["0"] * (len(cells) - 1),
        "1",
    ]


def _pair(
    table: Table, columns: _Columns, files: _Files, file: Path, root: Path
) -> tuple[dict[str, str], dict[str, str]]:
    """Return image → label and image → split, if there is a column of splits."""
    labels: dict[str, str] = {}
    split_of: dict[str, str] = {}
    lines: dict[str, int] = {}
    missing: list[tuple[int, str]] = []
    for line, cells in table.rows:
        name = cells[columns.image]
        found = files.find(name)
        if len(found) > 1:
            raise ValueError(
                f"{file}, row {line}: {name!r} may be {found[0]} or {found[1]}; accepted: paths "
                f"below {root} that tell them apart."
            )
        if not found:
            missing.append((line, name))
            continue
        label = _label(cells, columns, table.header)
        split = cells[columns.split] if columns.split is not None else ""
        path = found[0]
        if not label:
            continue  # an image without a label is counted as one
        if path in labels and (labels[path], split_of.get(path, "")) != (label, split):
            raise ValueError(
                f"{file}, row {line}: {path} is {label!r} here and {labels[path]!r} in row "
                f"{lines[path]}{' or of another split' if split else ''}; accepted: one class and "
                "split an image."
            )
        labels[path], lines[path] = label, line
        if split:
            split_of[path] = split
    if missing:
        line, name = missing[0]
        others = f" (and {counted(len(missing) - 1, 'row')} more)" if len(missing) > 1 else ""
        raise ValueError(
            f"{file}, row {line}: {name!r}{others} is no image below {root}; accepted: a row for "
            "each image that is there. Remove these rows, or add the images."
        )
    if not labels:
        raise ValueError(f"{file} labels no image below {root}.")
    return labels, split_of


def _label(cells: list[str], columns: _Columns, header: list[str]) -> str:
    """Return a row's class."""
    if len(columns.label) == 1:
        return cells[columns.label[0]]
    return next(header[c] for c in columns.label if cells[c].startswith("1"))


def _class_names(labels: Any, file: Path, column: str) -> tuple[str, ...]:
    """Sort the classes, by number if they are whole numbers."""
    names = set(labels)
    if len(names) == 1:
        raise ValueError(
            f"{file} gives every image the class {next(iter(names))!r} (column {column!r}), and a "
            f"network needs two or more; {_COLUMNS_HINT} if this is the wrong column."
        )
    if all(name.removeprefix("-").isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _indexes(
    root: Path,
    files: _Files,
    labelled: dict[str, str],
    split_of: dict[str, str],
    class_names: tuple[str, ...],
    size: int,
    subset: SubsetSpec,
) -> dict[str, ImageIndex]:
    """Make an index for each split that the table or the folders name, or one for all."""
    if not split_of:
        tops = {path: path.partition("/")[0] for path in labelled}
        named = split_names(sorted(set(tops.values())))
        if all("/" in path and tops[path] in named for path in labelled):
            split_of = tops
    names = split_names(sorted(set(split_of.values())))
    number = {name: label for label, name in enumerate(class_names)}
    listed: dict[str, list[list[tuple[str, int]]]] = {}
    for path in sorted(labelled):
        split = names[split_of[path]] if split_of else ""
        listed.setdefault(split, [[] for _ in class_names])
        listed[split][number[labelled[path]]].append((path, files.sizes[path]))
    if len(listed) == 1:
        listed = {"": next(iter(listed.values()))}
    elif "train" not in listed:
        raise ValueError(
            f"the labelled images of {root} are of {' and '.join(listed)}; accepted: some for "
            "training."
        )
    order = ("", *SPLIT_NAMES)
    return {
        split: index_files(root, listed[split], size, subset.decoding)
        for split in order
        if split in listed
    }
