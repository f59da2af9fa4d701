"""Tar files in WebDataset's manner as a data set: samples of an image and a label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from sign_ext.data.decode import FORMATS, decode_all, decode_rgb, readable
from sign_ext.data.formats.image_folder import DEFAULT_SIZE, folders
from sign_ext.data.lazy import Pool, Unread, parts_of
from sign_ext.data.splits import Wanted
from sign_ext.data.tar_files import LAYOUT, NUMBERS, expand, tars_in
from sign_ext.data.tar_index import CLASSES, index_tar, read_member

REPAIR = "Make the tar again without it, or with an image that can be read."


def open_tars(name: str | Path, wanted: Wanted) -> Unread:
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
    return Unread(called, note, names, parts, wanted)


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


def _pool(tars: list[Path], size: int) -> tuple[Pool, bytes | None]:
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

    return Pool(labels, read, size, identities, names), inside
