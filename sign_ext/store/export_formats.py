"""The files of each format of `sign-ext export`, for a part of a store at a time."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from sign_ext.data.classes import unique_names
from sign_ext.data.formats.webdataset import CLASSES_FILE
from sign_ext.files import json_text, replacing, write_whole
from sign_ext.store.export_loss import Loss, to_bytes
from sign_ext.store.export_names import tar_name

Format = Literal["png", "webp", "npy", "hf", "webdataset"]
FORMATS: tuple[str, ...] = get_args(Format)
INDEX, LABELS, TARGETS, CLASSES, CARD = (
    "images.csv",
    "labels.npy",
    "targets.npy",
    "classes.json",
    "README.md",
)
ENCODERS = 4  # Pillow releases the GIL while it compresses
# Of a split's name in the recipe; load_dataset gives what is called otherwise as train.
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Rows:
    """Images of a store at one K, with what is known about them.

    Attributes:
        step: K.
        images: float32 (n, C, H, W), grey levels.
        names: of each image, relative to the folder of its K, without suffix.
        keys: what the store calls them.
        indices: their positions in the data set.
        labels: of each image; None where there are targets.
        targets: (n, ...) in place of labels, or None.
        class_names: in label order; () if unknown.
    """

    step: int
    images: Tensor
    names: Sequence[str]
    keys: Sequence[str]
    indices: Sequence[int]
    labels: Sequence[int] | None
    targets: Tensor | None
    class_names: tuple[str, ...]

    def class_of(self, row: int) -> str:
        """The name of an image's class, its number if it has no name, "" without classes."""
        if self.labels is None:
            return ""
        label = self.labels[row]
        return self.class_names[label] if self.class_names else str(label)


def folder_of(step: int) -> str:
    """Return the name of the folder of a K.

    Example:
        >>> folder_of(50), folder_of(1000)
        ('K050', 'K1000')
    """
    return f"K{step:03d}"


def encode(pixels: np.ndarray, kind: str) -> bytes:
    """Return an image as the content of a file, without loss.

    Args:
        pixels: uint8 (H, W, 3) or (H, W, 1).
        kind: "png" or "webp".
    """
    from PIL import Image

    buffer = io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.save(
        buffer, **({"format": "WEBP", "lossless": True} if kind == "webp" else {"format": "PNG"})
    )
    return buffer.getvalue()


def encode_all(pixels: np.ndarray, kind: str, advance: Callable[[int], None]) -> list[bytes]:
    """Encode images by several threads, in order.

    Args:
        pixels: uint8 (N, H, W, C).
        kind: "png" or "webp".
        advance: called with 1 after each image.
    """
    found = []
    with ThreadPoolExecutor(ENCODERS) as pool:
        for content in pool.map(lambda each: encode(each, kind), pixels):
            found.append(content)
            advance(1)
    return found


def write_pictures(
    folder: Path, rows: Rows, kind: str, advance: Callable[[int], None]
) -> tuple[Loss, list[str]]:
    """Write FOLDER/K050/CLASS/NAME.png for each image.

    Args:
        folder: of the export.
        rows: the images.
        kind: "png" or "webp".
        advance: called with the number of images done.

    Returns:
        What was lost, and the files, relative to the folder.
    """
    pixels, loss = to_bytes(rows.images)
    files = [f"{folder_of(rows.step)}/{name}.{kind}" for name in rows.names]
    for parent in {(folder / name).parent for name in files}:
        parent.mkdir(parents=True, exist_ok=True)
    for name, content in zip(files, encode_all(pixels, kind, advance), strict=True):
        (folder / name).write_bytes(content)
    return loss, files


def write_tar(
    folder: Path, rows: Rows, part: int, advance: Callable[[int], None]
) -> tuple[Loss, list[str]]:
    """Write FOLDER/K050/000000.tar in WebDataset's format.

    Each image is NAME.png with NAME.cls, its label, or NAME.npy, its target; NAME.json has both
    and what the store called the image.

    Args:
        folder: of the export.
        rows: the images.
        part: the number of the tar.
        advance: called with the number of images done.

    Returns:
        What was lost, and the file, relative to the folder.
    """
    pixels, loss = to_bytes(rows.images)
    name = f"{folder_of(rows.step)}/{part:06d}.tar"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    contents = encode_all(pixels, "png", advance)
    with replacing(folder / name) as temporary, tarfile.open(temporary, "w") as tar:
        for row, image in enumerate(contents):
            about: dict[str, Any] = {
                "key": rows.keys[row],
                "index": rows.indices[row],
                "steps": rows.step,
            }
            members = {"png": image}
            if rows.labels is not None:
                members["cls"] = str(rows.labels[row]).encode()
                about |= {"label": rows.labels[row], "class": rows.class_of(row)}
            if rows.targets is not None:
                members["npy"] = _npy(rows.targets[row].numpy())
            members["json"] = json_text(about).encode()
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"{tar_name(rows.names[row])}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return loss, [name]


def write_parquet(
    folder: Path, rows: Rows, part: int, parts: int, advance: Callable[[int], None]
) -> tuple[Loss, list[str]]:
    """Write FOLDER/data/K050-00000-of-00003.parquet with the features that `datasets` reads.

    Args:
        folder: of the export.
        rows: the images.
        part: the number of the file.
        parts: how many there are of each K.
        advance: called with the number of images done.

    Returns:
        What was lost, and the file, relative to the folder.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    pixels, loss = to_bytes(rows.images)
    contents = encode_all(pixels, "png", advance)
    image = pa.array(
        [
            {"bytes": content, "path": f"{name}.png"}
            for content, name in zip(contents, rows.names, strict=True)
        ],
        pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    )
    columns = {"image": image}
    if rows.labels is not None:
        columns["label"] = pa.array(list(rows.labels), pa.int64())
    if rows.targets is not None:
        columns["target"] = pa.array(rows.targets.numpy().tolist(), _list_of(rows.targets))
    columns["key"] = pa.array(list(rows.keys), pa.string())
    columns["index"] = pa.array(list(rows.indices), pa.int64())
    columns["steps"] = pa.array([rows.step] * len(rows.keys), pa.int32())
    table = pa.table(columns).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": _features(rows)}})}
    )
    name = f"data/{folder_of(rows.step)}-{part:05d}-of-{parts:05d}.parquet"
    (folder / "data").mkdir(exist_ok=True)
    with replacing(folder / name) as temporary:
        pq.write_table(table, temporary, row_group_size=100)
    return loss, [name]


def _list_of(targets: Tensor) -> Any:
    import pyarrow as pa

    kind = pa.from_numpy_dtype(targets.numpy().dtype)
    return pa.list_(kind) if targets.ndim == 2 else kind


def _features(rows: Rows) -> dict[str, Any]:
    """The types of the columns, as `datasets.Features` writes them into Parquet."""

    def value(dtype: str) -> dict[str, Any]:
        return {"dtype": dtype, "_type": "Value"}

    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if rows.labels is not None:
        names = list(unique_names(rows.class_names))  # `datasets` refuses equal ones
        features["label"] = {"names": names, "_type": "ClassLabel"} if names else value("int64")
    if rows.targets is not None:
        each = value(str(rows.targets.dtype).removeprefix("torch."))
        features["target"] = (
            {"feature": each, "_type": "Sequence"} if rows.targets.ndim == 2 else each
        )
    return features | {"key": value("string"), "index": value("int64"), "steps": value("int32")}


def write_card(folder: Path, steps: Sequence[int], split: str) -> None:
    """Write the README.md from which `load_dataset` learns which files are which.

    Args:
        folder: of the export.
        steps: each becomes a configuration, and "all", the default, has every one.
        split: of the images.
    """
    split = split if split in SPLITS else "train"
    lines = ["---", "configs:"]
    for name, patterns in {
        "all": [f"data/{folder_of(step)}-*.parquet" for step in steps],
        **{folder_of(step): [f"data/{folder_of(step)}-*.parquet"] for step in steps},
    }.items():
        lines += [f"- config_name: {name}"] + (["  default: true"] if name == "all" else [])
        lines += ["  data_files:", f"  - split: {split}", "    path:"]
        lines += [f"    - {pattern}" for pattern in patterns]
    shown = ", ".join(folder_of(step) for step in steps)
    lines += [
        "---",
        "",
        "Images after SIGN (Signed Input Regularization), clipped to 0–255 and rounded, written by "
        "`sign-ext export`.",
        f"`load_dataset(FOLDER)` opens all of them, `load_dataset(FOLDER, NAME)` those of {shown}. "
        "`export.json` says what clipping and rounding lost.",
        "",
    ]
    write_whole(folder / CARD, "\n".join(lines))


def write_classes(folder: Path, steps: Sequence[int], class_names: Sequence[str]) -> None:
    """Write classes.txt beside the tars of each K, a name a line, as `sign-ext` reads it.

    Args:
        folder: of the export.
        steps: the K.
        class_names: in label order; nothing is written without names, or with one of two lines.
    """
    if class_names and not any(len(name.splitlines()) != 1 for name in class_names):
        content = "".join(f"{name}\n" for name in class_names)
        for step in steps:
            path = folder / folder_of(step) / CLASSES_FILE
            write_whole(path, content.encode("utf-8", "surrogateescape"))


def write_array(
    folder: Path,
    step: int,
    shape: tuple[int, ...],
    parts: Iterable[Tensor],
    advance: Callable[[int], None],
) -> list[str]:
    """Write FOLDER/K050.npy, float32 (N, C, H, W), unclipped and unrounded.

    Args:
        folder: of the export.
        step: K.
        shape: of the whole array.
        parts: the images, in order, a few at a time.
        advance: called with the number of images done.

    Returns:
        The file, relative to the folder.
    """
    name = f"{folder_of(step)}.npy"
    with replacing(folder / name) as temporary:
        whole = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        start = 0
        for images in parts:
            whole[start : start + len(images)] = images.to(torch.float32).numpy()
            start += len(images)
            advance(len(images))
        whole.flush()
        del whole
    return [name]


def write_index(folder: Path, rows: Rows, labels: Tensor, suffix: str) -> None:
    """Write images.csv, a line for each image; and labels.npy or targets.npy with classes.json.

    Args:
        folder: of the export.
        rows: all images of one K; their pixels are not used.
        labels: (N,), or the targets (N, ...).
        suffix: of the files, "" where an array holds all images.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    known = rows.labels is not None
    writer.writerow(
        ["file" if suffix else "row", *(["label", "class"] if known else []), "key", "index"]
    )
    for row, name in enumerate(rows.names):
        first = f"{name}{suffix}" if suffix else row
        own = [] if rows.labels is None else [rows.labels[row], rows.class_of(row)]
        writer.writerow([first, *own, rows.keys[row], rows.indices[row]])
    write_whole(folder / INDEX, text.getvalue().encode("utf-8", "surrogateescape"))
    if not known:
        write_whole(folder / TARGETS, _npy(labels.numpy()))
    elif not suffix:
        write_whole(folder / LABELS, _npy(labels.numpy()))
    if rows.class_names:
        write_whole(folder / CLASSES, json_text(list(rows.class_names), indent=2) + "\n")


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
