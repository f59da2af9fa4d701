"""Tar files in WebDataset format: a sample is an image and a label with the same key.

The library webdataset streams such files from front to back. SIGN reads images in any order and
from several threads, so here the headers of a tar are read once, and each image by its offset.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from sign_ext.data.classes import check_numbered
from sign_ext.data.decode import (
    EXTENSIONS,
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
    SPLIT_NAMES,
    ImageIndex,
    LazyDataset,
    parts_cut,
    splits_from,
)
from sign_ext.data.listing import (
    count_beside,
    holds_images,
    is_hidden,
    subfolders,
    with_left_out,
)
from sign_ext.data.names import COMPRESSED_TARS
from sign_ext.data.splits import SubsetSpec, split_names
from sign_ext.formatting import counted

CLASSES_FILE = "classes.txt"
ACCEPTED = (
    "accepted: photos.tar, photos-{000..013}.tar, ROOT/*.tar, or ROOT/train/*.tar with, "
    "optionally, ROOT/validation/*.tar and ROOT/test/*.tar (in their common spellings)"
)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
_BLOCK = 512  # bytes; a tar is a sequence of such blocks
_ADVICE = "Make the tar again without it, or with an image that can be read."


def open_webdataset(path: str | Path, subset: SubsetSpec) -> LazyDataset:
    """List the samples of a tar, of several, or of a folder of them.

    ROOT/train/*.tar, ROOT/test/*.tar and ROOT/validation/*.tar (or ROOT/val) are used as they are;
    without a validation folder 15% of the training images are held out. Everything else is split
    70/15/15 within each class. Classes are called "0", "1" and so on, unless ``classes.txt`` names
    them, one a line: next to the (training) tars, in ROOT, or in the first tar.

    Args:
        path: a tar, a pattern such as ``"photos-{000..013}.tar"``, or a folder.
        subset: subset sizes and image size (default 32; the aspect ratio is not kept).

    Returns:
        The data set, named after the file or folder; samples are in the order of the tars.

    Raises:
        FileNotFoundError: a tar is missing.
        ValueError: another folder structure, a damaged tar or sample, too few images, or a subset
            too large.
    """
    size = subset.image_size or DEFAULT_SIZE
    root = Path(path)
    if root.is_dir():
        name = root.resolve().name
        tars_of_split = _tars_of_split(root)
    else:
        name = _RANGE.sub("", root.name).removesuffix(".tar").strip("-_.") or "tars"
        tars_of_split = {"": expand_pattern(str(path))}
    left_out: Counter[str] = Counter()
    if root.is_dir():
        _count_unread(root, tars_of_split, left_out)
    indexes = {}
    classes_content = None  # of the first tar of the first split whose first tar has one
    for split, tars in tars_of_split.items():
        indexes[split], content = _index(tars, size, subset.decoding, left_out)
        classes_content = content if classes_content is None else classes_content
    first = next(iter(tars_of_split.values()))[0]
    folders = [first.parent, root] if root.is_dir() else [first.parent]
    labels = np.concatenate([index.labels for index in indexes.values()])
    class_names = _class_names(first, folders, classes_content, labels)
    splits = splits_from(indexes, class_names, str(path))
    count = sum(len(tars) for tars in tars_of_split.values())
    note = (
        f"images of {name} ({len(labels):,} in {counted(len(class_names), 'class', 'classes')}, "
        f"from {counted(count, 'tar')}, resized to {size}×{size})"
    )
    return LazyDataset(
        name,
        with_left_out(note, left_out),
        class_names,
        splits,
        subset,
        left_out=left_out,
        cut=parts_cut(indexes),
    )


def tars_in(folder: Path) -> list[Path]:
    """List the visible tars of a folder by name; none if the folder does not exist.

    Args:
        folder: the folder; its sub-folders are not searched.
    """
    if not folder.is_dir():
        return []
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.name.lower().endswith(".tar")
        and not entry.name.startswith(".")
        and entry.is_file()
    )


def compressed_tars_in(folder: Path) -> list[Path]:
    """List the visible compressed tars of a folder by name.

    Args:
        folder: an existing folder.
    """
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.name.lower().endswith(COMPRESSED_TARS) and not entry.name.startswith(".")
    )


def expand_pattern(pattern: str) -> list[Path]:
    """List the files that a path or a pattern stands for, all of which must exist.

    Args:
        pattern: a tar, or a pattern with ranges of numbers: ``{000..013}`` is 000, 001 … 013.

    Returns:
        The files in the pattern's order.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a range that runs backwards or is too long, or braces around something else.
    """
    if Path(pattern).is_file():
        return [Path(pattern)]
    # Alternately text, first and last number of a range, text …
    pieces = _RANGE.split(pattern)
    texts, ranges = pieces[::3], list(zip(pieces[1::3], pieces[2::3], strict=True))
    if any("{" in text or "}" in text for text in texts):
        raise ValueError(f"name={pattern!r} has braces that are not a range; {ACCEPTED}.")
    numbers = [_numbers(first, last, pattern) for first, last in ranges]
    paths = []
    for chosen in itertools.product(*numbers):
        filled = itertools.chain.from_iterable(zip(texts, chosen, strict=False))
        path = Path("".join(filled) + texts[-1])
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing (name={pattern!r}); {ACCEPTED}.")
        paths.append(path)
    return paths


def _numbers(first: str, last: str, pattern: str) -> list[str]:
    """Return the numbers of a range, with as many digits as the first has."""
    if int(first) > int(last):
        raise ValueError(f"name={pattern!r} has a range that runs backwards; {ACCEPTED}.")
    if int(last) - int(first) >= 1_000_000:  # a typing error; listing them would take minutes
        raise ValueError(f"name={pattern!r} has a range of more than a million files; {ACCEPTED}.")
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]


def _tars_of_split(root: Path) -> dict[str, list[Path]]:
    """List a folder's tars by split; under "" if they are still to be split."""
    tars = tars_in(root)
    tars_in_folder = {name: tars_in(root / name) for name in subfolders(root)}
    if tars:
        others = [
            name for name, found in tars_in_folder.items() if found or holds_images(root / name)
        ]
        if others:
            raise ValueError(
                f"{root} holds {tars[0].name} and the folders {others}, so it may be "
                f"a folder of tars or one of images; keep one kind in it. For tars {ACCEPTED}."
            )
        return {"": tars}
    names = split_names(list(tars_in_folder))
    unknown = [name for name, found in tars_in_folder.items() if found and name not in names]
    empty = [
        name
        for name, found in tars_in_folder.items()
        if not found and (name in names or holds_images(root / name))
    ]
    twice = len(set(names.values())) < len(names)
    if unknown or empty or twice or "train" not in names.values():
        raise ValueError(
            f"{root} holds the folders {list(tars_in_folder)}"
            + (f", of which {empty[0]} has no tars" if empty else "")
            + f"; {ACCEPTED}."
        )
    if len(names) == 1:
        return {"": tars_in_folder[next(iter(names))]}
    # Training first: its tars are the first place to look for the class names.
    by_split = {split: tars_in_folder[name] for name, split in names.items()}
    return {split: by_split[split] for split in SPLIT_NAMES if split in by_split}


def _count_unread(root: Path, tars_of_split: dict[str, list[Path]], left_out: Counter[str]) -> None:
    """Count what lies in the folders of the tars and is not read."""
    folders: dict[Path, list[str]] = {}
    for tars in tars_of_split.values():
        for tar in tars:
            folders.setdefault(tar.parent, []).append(tar.name)
    if root not in folders:
        folders[root] = [folder.name for folder in folders]
    for folder, used in folders.items():
        count_beside(folder, [*used, CLASSES_FILE], left_out)


def _class_names(
    first: Path, folders: list[Path], classes_content: bytes | None, labels: np.ndarray
) -> tuple[str, ...]:
    """Read the class names from a file or from the first tar; number the classes without them."""
    count = int(labels.max()) + 1
    candidates = [folder / CLASSES_FILE for folder in folders]
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None and classes_content is None:
        cure = f"name all classes in {folders[-1] / CLASSES_FILE}, one a line"
        check_numbered(labels, str(first.parent if len(folders) > 1 else first), cure)
        return tuple(str(label) for label in range(count))
    location = str(file) if file is not None else f"{first}: {CLASSES_FILE}"
    content = file.read_bytes() if file is not None else classes_content or b""
    try:
        names = tuple(line.strip() for line in content.decode("utf-8-sig").strip().splitlines())
    except UnicodeDecodeError as error:
        raise ValueError(f"{location} is not UTF-8 text: {error}.") from error
    if len(names) == count - 1 and "" not in names and not (labels == 0).any():
        raise ValueError(
            f"{location} has {len(names)} lines, and the labels begin at {int(labels.min())}; "
            "accepted: labels from 0, the first line's. Subtract 1 from every label, or name a "
            "class 0 in the first line."
        )
    if len(names) < count or "" in names:
        raise ValueError(
            f"{location} has {len(names)} lines{', some of them empty' if '' in names else ''}; "
            f"accepted: one line for each label, 0 to {count - 1}."
        )
    return names


def _index(
    tars: list[Path], size: int, decoding: Decoding, left_out: Counter[str]
) -> tuple[ImageIndex, bytes | None]:
    """List the samples of some tars; also return the classes.txt of the first."""
    keys: list[str] = []
    columns: list[np.ndarray] = []
    classes = None
    for number, tar in enumerate(tars):
        contents = index_tar(tar)
        classes = contents.classes if number == 0 else classes
        left_out.update(contents.left_out)
        keys += [sample.key for sample in contents.samples]
        rows = [
            (sample.label, number, sample.offset, sample.size, sample.modified)
            for sample in contents.samples
        ]
        # An array for each tar: millions of Python integers would take ten times the memory.
        columns.append(np.asarray(rows, dtype=np.int64).reshape(-1, 5).T)
    if not keys:
        raise ValueError(f"{tars[0]} holds no samples; accepted: files KEY.jpg and KEY.cls.")
    labels, tar_numbers, offsets, sizes, times = np.concatenate(columns, axis=1)
    conversions = Conversions(len(keys))

    def read(positions: np.ndarray) -> Tensor:
        def decode(number: int) -> np.ndarray:
            row = int(positions[number])
            tar = tars[tar_numbers[row]]
            with decode_errors(f"{tar}: {keys[row]!r} cannot be read as an image", _ADVICE):
                data = _read_member(tar, int(offsets[row]), int(sizes[row]))
                return decode_rgb(data, size, FORMATS, decoding, conversions.of(row))

        return decode_all(len(positions), size, decode)

    def identities(positions: np.ndarray) -> list[bytes]:
        return [b"%d %d" % (sizes[row], times[row]) for row in positions]

    def keys_at(positions: np.ndarray) -> list[str]:
        return [keys[row] for row in positions]

    index = ImageIndex(labels, read, size, identities, keys_at, conversions=conversions)
    return index, classes


@dataclass
class Sample:
    """One image and its label.

    Args:
        key: the path of its members up to the first dot of their base name.
        label: 0 or more; −1 until it is read.
        offset: where the image's bytes begin in the tar.
        size: their number; −1 until the image is found.
        modified: the image's modification time in seconds, by which another image of the same size
            is noticed.
        json: offset and size of the member ``.json``, which has the label if there is no ``.cls``.
    """

    key: str
    label: int = -1
    offset: int = -1
    size: int = -1
    modified: int = 0
    json: tuple[int, int] | None = None


@dataclass(frozen=True)
class TarIndex:
    """The contents of a tar.

    Args:
        samples: in the order in which they begin.
        classes: the content of its ``classes.txt``; None if there is none.
        left_out: kind → number of members that are not read.
    """

    samples: list[Sample]
    classes: bytes | None
    left_out: Counter[str]


def index_tar(path: Path) -> TarIndex:
    """List the samples of a tar and read their labels.

    Members with the same key are one sample: an image (by its extension), and the label as an
    integer in ``.cls``, or else as ``"label"`` in ``.json``. Other members of a sample and hidden
    files are left out and counted. Tars that were joined with ``cat`` are read one after another.

    Args:
        path: an uncompressed tar.

    Returns:
        Its contents.

    Raises:
        ValueError: a tar that is compressed, cut short or damaged, or a sample with no image, two
            images or no label; the message names tar and key.
    """
    samples: list[Sample] = []
    found = TarIndex(samples, None, Counter())
    start: int | None = 0
    with path.open("rb", buffering=0) as file:
        _refuse_compressed(path, file.read(8))
        while start is not None:
            found, start = _index_archive(path, file, start, found)
    return found


def _index_archive(
    path: Path, file: io.FileIO, start: int, found: TarIndex
) -> tuple[TarIndex, int | None]:
    """Add what an archive within a file holds; also return where the next one begins, if any."""
    samples: dict[str, Sample] = {}
    classes = found.classes
    last = "its beginning" if not start else f"the tar that ends at byte {start:,}"
    descriptor = file.fileno()
    try:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                # tarfile would keep every member: millions of objects for large data sets.
                tar.members = []  # type: ignore[attr-defined]
                last = repr(member.name)
                folder, _, base = member.name.rpartition("/")
                if member.isdir():
                    continue
                if base.startswith(".") or any(is_hidden(part) for part in _folders(folder)):
                    found.left_out["hidden"] += 1
                    continue
                if not member.isreg() or member.issparse():
                    raise ValueError(
                        f"{path}: {member.name} is a link or another special file; accepted: "
                        "files. Make the tar with tar --dereference --hard-dereference."
                    )
                if member.name.removeprefix("./") == CLASSES_FILE:
                    if classes is None:
                        classes = _pread(descriptor, member.offset_data, member.size)
                    continue
                stem, _, extension = base.partition(".")
                key = f"{folder}/{stem}".removeprefix("./") if folder else stem
                sample = samples.setdefault(key, Sample(key))
                if not _add_member(sample, member, extension.lower(), path, descriptor):
                    found.left_out["members"] += 1
            # tarfile takes a file that is cut at a member's end for a whole one.
            if _pread(descriptor, tar.offset, _BLOCK) != bytes(_BLOCK):
                raise tarfile.ReadError("the end-of-archive block is missing")
            following = _next_archive(descriptor, tar.offset)
        for sample in samples.values():
            _complete(sample, path, descriptor)
    except (tarfile.TarError, OSError, EOFError, OverflowError) as error:
        raise ValueError(
            f"{path} is cut short or damaged after {last}: {error}. Download or make it again."
        ) from error
    found.samples.extend(samples.values())
    return TarIndex(found.samples, classes, found.left_out), following


def _folders(path: str) -> list[str]:
    """Return the names of the folders in a member's path, without "." for the current one."""
    return [part for part in path.split("/") if part not in ("", ".", "..")]


def _next_archive(descriptor: int, offset: int) -> int | None:
    """Return where the zeros after an archive end; None if the file ends with them.

    ``cat a.tar b.tar`` leaves the zeros that end the first one in the middle of the file.
    """
    chunk = 1 << 20
    while data := os.pread(descriptor, chunk, offset):
        rest = data.lstrip(b"\0")
        if rest:
            return (offset + len(data) - len(rest)) // _BLOCK * _BLOCK
        offset += len(data)
    return None


def _refuse_compressed(path: Path, start: bytes) -> None:
    """Raise ValueError for a compressed file, which cannot be read at an offset."""
    for magic, name in _MAGIC.items():
        if start.startswith(magic):
            raise ValueError(
                f"{path} is compressed ({name}); accepted: uncompressed tars, whose images can be "
                "read in any order. Decompress it, or make it again without compression."
            )


def _add_member(
    sample: Sample, member: tarfile.TarInfo, extension: str, path: Path, descriptor: int
) -> bool:
    """Record a member that is the image or the label of a sample; return whether it is."""
    if f".{extension}" in EXTENSIONS:
        if sample.size >= 0:
            raise ValueError(
                f"{path}: {sample.key!r} has two images, the second is {member.name}; accepted: "
                "one image a key, which ends at the first dot of a file's name."
            )
        sample.offset, sample.size = member.offset_data, member.size
        sample.modified = int(member.mtime)
    elif extension == "cls":
        text = _pread(descriptor, member.offset_data, member.size).strip()
        sample.label = int(text) if text.isdigit() and len(text) < 9 else -1
        if not 0 <= sample.label <= LARGEST_LABEL:
            raise ValueError(
                f"{path}: {member.name} holds {text[:40]!r}; accepted: a label, 0 to "
                f"{LARGEST_LABEL:,}, as text."
            )
    elif extension == "json":
        # Read in _complete, and only if there is no .cls, which may come later in the tar.
        sample.json = (member.offset_data, member.size)
    else:
        return False
    return True


def _complete(sample: Sample, path: Path, descriptor: int) -> None:
    """Read the label from .json if there is no .cls; raise ValueError if something is missing."""
    if sample.size < 0:
        raise ValueError(
            f"{path}: {sample.key!r} has no image; accepted: one file named {sample.key} with one "
            f"of the extensions {', '.join(EXTENSIONS)}."
        )
    if sample.label < 0 and sample.json is not None:
        try:
            content = json.loads(_pread(descriptor, *sample.json))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: {sample.key}.json is not JSON: {error}.") from error
        label = content.get("label") if isinstance(content, dict) else None
        if type(label) is int and 0 <= label <= LARGEST_LABEL:  # not isinstance: True is an int
            sample.label = label
        elif label is not None:
            raise ValueError(
                f"{path}: {sample.key}.json has the label {label!r}; accepted: 0 to "
                f"{LARGEST_LABEL:,}."
            )
    if sample.label < 0:
        raise ValueError(
            f"{path}: {sample.key!r} has no label; accepted: {sample.key}.cls with an integer, or "
            f'{sample.key}.json with {{"label": integer}}.'
        )
    sample.json = None


def _read_member(path: Path, offset: int, size: int) -> bytes:
    """Read a member's bytes. Opens the file on each call, so any number of threads may call it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return _pread(descriptor, offset, size)
    finally:
        os.close(descriptor)


def _pread(descriptor: int, offset: int, size: int) -> bytes:
    """Read some bytes at an offset, leaving the file position alone; OSError if there are fewer."""
    data = os.pread(descriptor, size, offset)
    if len(data) != size:
        raise OSError(f"the file ends within the {size:,} bytes at {offset:,}")
    return data
