"""Where a tar file in WebDataset's manner holds which sample: found without reading the images.

The library webdataset streams such files from front to back. SIGN's inputs are read at any place
and by several threads, so here the headers are read once, and each image by its offset.
"""

from __future__ import annotations

import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

from sign_ext.data.lazy import LARGEST_LABEL

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
