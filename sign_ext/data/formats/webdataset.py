"""Tar files in WebDataset's manner as a data set: samples of an image and a label."""

from __future__ import annotations

import itertools
import json
import os
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from sign_ext.data.decode import FORMATS, decode_all, decode_rgb, readable
from sign_ext.data.formats.image_folder import DEFAULT_SIZE, folders
from sign_ext.data.lazy import LARGEST_LABEL, ImageIndex, LazyDataset, parts_of
from sign_ext.data.splits import SubsetSpec

# Where a tar file in WebDataset's manner holds which sample: found without reading the images.
#
# The library webdataset streams such files from front to back. SIGN's inputs are read at any place
# and by several threads, so here the headers are read once, and each image by its offset.


# As image folders', by which a member is told to be an image.
IMAGE_ENDINGS = ("bmp", "gif", "jpeg", "jpg", "png", "ppm", "tif", "tiff", "webp")
CLASSES = "classes.txt"
MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
BLOCK = 512


@dataclass
class Sample:
    """One image and its label.

    Args:
        key: the members' path up to the first dot of their base name.
        label: 0 or more; −1 until it was read.
        offset: where the image's bytes begin in the tar.
        size: how many they are; −1 until the image was found.
        modified: the image's time in the tar, in seconds: tells a rewritten image of equal size.
        json: offset and size of the member ``.json``, which has the label if there is no ``.cls``.
    """

    key: str
    label: int = -1
    offset: int = -1
    size: int = -1
    modified: int = 0
    json: tuple[int, int] | None = None


@dataclass(frozen=True)
class Index:
    """What a tar holds.

    Args:
        samples: in the order in which they begin.
        classes: the content of its ``classes.txt``; None if there is none.
    """

    samples: list[Sample]
    classes: bytes | None


def index_tar(path: Path) -> Index:
    """List the samples of a tar and read their labels.

    Members with the same key are one sample: an image (by its ending), and the label as an integer
    in ``.cls``, or else as ``"label"`` of ``.json``. Other members of a sample are left alone, and
    so are hidden files.

    Args:
        path: an uncompressed tar.

    Returns:
        Its samples.

    Raises:
        ValueError: a tar that is compressed, cut short or damaged, or a sample with no image, two
            images or no label; the message names tar and key.
    """
    samples: dict[str, Sample] = {}
    classes = None
    last = "its beginning"
    try:
        with path.open("rb", buffering=0) as file:
            _refuse_compressed(path, file.read(8))
            with tarfile.open(path, "r:") as tar:
                while (member := tar.next()) is not None:
                    # It keeps every member otherwise, which are millions in large data sets.
                    tar.members = []  # type: ignore[attr-defined]
                    last = repr(member.name)
                    folder, _, base = member.name.rpartition("/")
                    if member.isdir() or base.startswith("."):
                        continue
                    if not member.isreg() or member.issparse():
                        raise ValueError(
                            f"{path}: {member.name} is a link or another special file; accepted: "
                            "files. Make the tar with tar --dereference --hard-dereference."
                        )
                    if member.name.removeprefix("./") == CLASSES:
                        classes = _content(file.fileno(), member.offset_data, member.size)
                        continue
                    stem, _, ending = base.partition(".")
                    key = f"{folder}/{stem}".removeprefix("./") if folder else stem
                    sample = samples.setdefault(key, Sample(key))
                    _take(sample, member, ending.lower(), path, file.fileno())
                if _content(file.fileno(), tar.offset, BLOCK) != bytes(BLOCK):
                    raise tarfile.ReadError("the mark at its end is missing")
            for sample in samples.values():
                _finish(sample, path, file.fileno())
    except (tarfile.TarError, OSError, EOFError, OverflowError) as error:
        raise ValueError(
            f"{path} is cut short or damaged after {last}: {error}. Get or make it again."
        ) from error
    return Index(list(samples.values()), classes)


def read_member(path: Path, offset: int, size: int) -> bytes:
    """Read a member's bytes; opened anew each time, so any number of threads may do so.

    Args:
        path: the tar.
        offset: where they begin.
        size: how many they are.

    Returns:
        The bytes.

    Raises:
        OSError: the tar is not there any more, or was cut short.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return _content(descriptor, offset, size)
    finally:
        os.close(descriptor)


def _content(descriptor: int, offset: int, size: int) -> bytes:
    """Read some bytes by their place, which moves no position that others share."""
    data = os.pread(descriptor, size, offset)
    if len(data) != size:
        raise OSError(f"the file ends within the {size:,} bytes at {offset:,}")
    return data


def _refuse_compressed(path: Path, start: bytes) -> None:
    """Raise ValueError for files that cannot be read at any place."""
    for magic, name in MAGIC.items():
        if start.startswith(magic):
            raise ValueError(
                f"{path} is compressed ({name}); accepted: uncompressed tars, whose images can be "
                "read in any order. Unpack it first, or make it again without compression."
            )


def _take(
    sample: Sample, member: tarfile.TarInfo, ending: str, path: Path, descriptor: int
) -> None:
    """Note what a member tells about its sample."""
    if ending in IMAGE_ENDINGS:
        if sample.size >= 0:
            raise ValueError(
                f"{path}: {sample.key!r} has two images, the second is {member.name}; accepted: "
                f"one image a key, which ends at the first dot of a file's name."
            )
        sample.offset, sample.size = member.offset_data, member.size
        sample.modified = int(member.mtime)
    elif ending == "cls":
        text = _content(descriptor, member.offset_data, member.size).strip()
        sample.label = int(text) if text.isdigit() and len(text) < 9 else -1
        if not 0 <= sample.label <= LARGEST_LABEL:
            raise ValueError(
                f"{path}: {member.name} holds {text[:40]!r}; accepted: a label, 0 to "
                f"{LARGEST_LABEL:,}, as text."
            )
    elif ending == "json":
        sample.json = (member.offset_data, member.size)


def _finish(sample: Sample, path: Path, descriptor: int) -> None:
    """Read a label that only .json has, and refuse a sample that lacks something."""
    if sample.size < 0:
        raise ValueError(
            f"{path}: {sample.key!r} has no image; accepted: one file with the key's name and one "
            f"of the endings {', '.join(IMAGE_ENDINGS)} after its first dot."
        )
    if sample.label < 0 and sample.json is not None:
        try:
            found = json.loads(_content(descriptor, *sample.json))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: {sample.key}.json is not JSON: {error}.") from error
        label = found.get("label") if isinstance(found, dict) else None
        if type(label) is int and 0 <= label <= LARGEST_LABEL:
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


# Finding tars by a path: one file, several by a pattern of numbers, or those of a folder.


COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")
LAYOUT = (
    "accepted: photos.tar, photos-{000..013}.tar, ROOT/*.tar, or ROOT/train/*.tar with "
    "ROOT/test/*.tar and, optionally, ROOT/validation (or ROOT/val)"
)


def is_tar(name: str) -> bool:
    """Tell whether a path's ending is a tar's, compressed ones included.

    Example:
        >>> is_tar("photos-{000..013}.tar"), is_tar("photos")
        (True, False)
    """
    return name.lower().endswith((".tar", *COMPRESSED))


def expand(name: str) -> list[Path]:
    """List the files that a path or a pattern names, all of which must be there.

    Args:
        name: a tar, or a pattern with ranges of numbers: ``{000..013}`` means 000, 001 … 013.

    Returns:
        The files in the pattern's order.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a range that runs backwards, or braces that hold something else.
    """
    if Path(name).is_file():
        return [Path(name)]
    between = NUMBERS.split(name)
    texts, ranges = between[::3], list(zip(between[1::3], between[2::3], strict=True))
    if any("{" in text or "}" in text for text in texts):
        raise ValueError(f"name={name!r} has braces that are no range; {LAYOUT}.")
    numbers = []
    for first, last in ranges:
        if int(first) > int(last):
            raise ValueError(f"name={name!r} has a range that runs backwards; {LAYOUT}.")
        width = len(first)
        numbers.append([f"{each:0{width}d}" for each in _few(first, last, name)])
    paths = []
    for chosen in itertools.product(*numbers):
        pieces = itertools.chain.from_iterable(zip(texts, chosen, strict=False))
        path = Path("".join(pieces) + texts[-1])
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing (name={name!r}); {LAYOUT}.")
        paths.append(path)
    return paths


def _few(first: str, last: str, name: str) -> range:
    """Return a range of numbers, unless a slip of the pen made it immense."""
    if int(last) - int(first) >= 1_000_000:
        raise ValueError(f"name={name!r} has a range of more than a million files; {LAYOUT}.")
    return range(int(first), int(last) + 1)


def tars_in(folder: Path) -> list[Path]:
    """List the visible tars of a folder by name; none if there is no such folder.

    Args:
        folder: the folder; what is below its own folders does not count.
    """
    if not folder.is_dir():
        return []
    return sorted(
        each
        for each in folder.iterdir()
        if each.name.lower().endswith(".tar") and not each.name.startswith(".") and each.is_file()
    )


def compressed_in(folder: Path) -> list[Path]:
    """List the visible compressed tars of a folder by name.

    Args:
        folder: a folder that is there.
    """
    return sorted(
        each
        for each in folder.iterdir()
        if each.name.lower().endswith(COMPRESSED) and not each.name.startswith(".")
    )


REPAIR = "Make the tar again without it, or with an image that can be read."


def open_tars(name: str | Path, wanted: SubsetSpec) -> LazyDataset:
    """List the samples of a tar, of several, or of a folder of them.

    ROOT/train/*.tar, ROOT/test/*.tar and ROOT/validation/*.tar (or ROOT/val) are used as they are,
    without a validation folder 15% of the training images are held out; all else is split 70/15/15
    within each class. Classes are called "0", "1" and so on, unless ``classes.txt`` names them, a
    line each, beside the (training) tars, in ROOT, or in the first tar.

    Args:
        name: a tar, a pattern such as ``"photos-{000..013}.tar"``, or a folder.
        wanted: subset sizes and image size (default 32; the aspect ratio is not kept).

    Returns:
        The splits, unread, called after the file or folder; samples are in the order of the tars.

    Raises:
        FileNotFoundError: a tar is missing.
        ValueError: another layout, a damaged tar or sample, too few images, or a subset too large.
    """
    size = wanted.image_size or DEFAULT_SIZE
    root = Path(name)
    if root.is_dir():
        called = root.resolve().name
        groups = _groups(root)
    else:
        called = NUMBERS.sub("", root.name).removesuffix(".tar").strip("-_.") or "tars"
        groups = {"": expand(str(name))}
    pools = {}
    inside = None
    for group, tars in groups.items():
        pools[group], classes = _pool(tars, size)
        inside = classes if inside is None else inside
    first = next(iter(groups.values()))[0]
    labels = np.concatenate([pool.labels for pool in pools.values()])
    names = _class_names(first, [first.parent, *([root] if root.is_dir() else [])], inside, labels)
    parts = parts_of(pools, names, str(name))
    count = sum(len(tars) for tars in groups.values())
    note = f"images of {called} ({len(labels):,} in {len(names)} classes, from {count:,} "
    note += f"{'tar' if count == 1 else 'tars'}, resized to {size}×{size})"
    return LazyDataset(called, note, names, parts, wanted)


def _groups(root: Path) -> dict[str, list[Path]]:
    """List a folder's tars: under "" if they are to be split, else by the split's folder."""
    here = tars_in(root)
    below = {name: tars_in(root / name) for name in folders(root)}
    if here:
        if below:
            raise ValueError(
                f"{root} holds {here[0].name} and the folders {list(below)}, so it may be a folder "
                f"of tars or one of images; keep one kind in it. For tars {LAYOUT}."
            )
        return {"": here}
    unknown = [name for name in below if name not in ("train", "validation", "val", "test")]
    empty = [name for name, tars in below.items() if not tars]
    if unknown or empty or "test" not in below or {"validation", "val"} <= set(below):
        raise ValueError(
            f"{root} holds the folders {list(below)}"
            + (f", of which {empty[0]} has no tars" if empty else "")
            + f"; {LAYOUT}."
        )
    return {"train": below.pop("train"), **below}


def _class_names(
    first: Path, beside: list[Path], inside: bytes | None, labels: np.ndarray
) -> tuple[str, ...]:
    """Read the class names, or number the classes if they have none."""
    count = int(labels.max()) + 1
    file = next((each / CLASSES for each in beside if (each / CLASSES).is_file()), None)
    if file is None and inside is None:
        return tuple(str(label) for label in range(count))
    content = file.read_bytes() if file is not None else inside or b""
    try:
        names = tuple(line.strip() for line in content.decode("utf-8-sig").strip().splitlines())
    except UnicodeDecodeError as error:
        raise ValueError(f"{file or f'{first}: {CLASSES}'} is not UTF-8 text: {error}.") from error
    if len(names) < count or "" in names:
        raise ValueError(
            f"{file or f'{first}: {CLASSES}'} has {len(names)} lines"
            f"{', some of them empty' if '' in names else ''}; accepted: a name for each label, "
            f"0 to {count - 1}, a line each."
        )
    return names


def _pool(tars: list[Path], size: int) -> tuple[ImageIndex, bytes | None]:
    """List the samples of some tars; also give the classes.txt of the first."""
    keys: list[str] = []
    columns: list[np.ndarray] = []
    inside = None
    for number, tar in enumerate(tars):
        index = index_tar(tar)
        inside = index.classes if number == 0 else inside
        keys += [each.key for each in index.samples]
        rows = [
            (each.label, number, each.offset, each.size, each.modified) for each in index.samples
        ]
        # As arrays tar by tar: millions of Python numbers would take ten times the memory.
        columns.append(np.asarray(rows, dtype=np.int64).reshape(-1, 5).T)
    if not keys:
        raise ValueError(f"{tars[0]} holds no samples; accepted: files KEY.jpg and KEY.cls.")
    labels, numbers, offsets, sizes, times = np.concatenate(columns, axis=1)

    def read(where: np.ndarray) -> Tensor:
        def decode(position: int) -> np.ndarray:
            row = where[position]
            tar = tars[numbers[row]]
            with readable(f"{tar}: {keys[row]!r} cannot be read as an image", REPAIR):
                data = read_member(tar, int(offsets[row]), int(sizes[row]))
                return decode_rgb(data, size, FORMATS)

        return decode_all(len(where), size, decode)

    def identities(where: np.ndarray) -> list[bytes]:
        return [b"%d %d" % (sizes[row], times[row]) for row in where]

    def names(where: np.ndarray) -> list[str]:
        return [keys[row] for row in where]

    return ImageIndex(labels, read, size, identities, names), inside
