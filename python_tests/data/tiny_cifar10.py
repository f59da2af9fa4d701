"""Tiny CIFAR-10 files in all three formats, written here from their specifications."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

PER_BATCH = 20
NAMES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")
HEAD = b"\x80\x02}("  # protocol 2, an empty dictionary, and the mark before its items


@dataclass
class TinyCifar:
    """Random images with balanced labels: 100 for training, 20 for the test."""

    train_images: np.ndarray  # uint8 (100, 3, 32, 32)
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    def batches(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        parts = zip(np.split(self.train_images, 5), np.split(self.train_labels, 5), strict=True)
        return {
            **dict(zip(NAMES, parts, strict=True)),
            "test_batch": (self.test_images, self.test_labels),
        }

    def write_binary(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, (images, labels) in self.batches().items():
            records = b"".join(
                bytes([label]) + image.tobytes()
                for image, label in zip(images, labels, strict=True)
            )
            (folder / f"{name}.bin").write_bytes(records)
        return folder

    def write_python(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, (images, labels) in self.batches().items():
            (folder / name).write_bytes(python2_batch(images, labels))
        return folder

    def write_parquet(self, folder: Path, lossless: tuple[int, int] = (97, 19)) -> Path:
        for part, images, labels, exact in (
            ("train", self.train_images, self.train_labels, lossless[0]),
            ("test", self.test_images, self.test_labels, lossless[1]),
        ):
            write_parquet(
                folder / f"cifar10_{part}.parquet",
                [webp(image) for image in images],
                labels,
                [index < exact for index in range(len(labels))],
            )
        return folder


def webp(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "WEBP", lossless=True, exact=True)
    return buffer.getvalue()


def write_parquet(file: Path, cells: list[bytes], labels: np.ndarray, lossless: list[bool]) -> None:
    table = pyarrow.table(
        {
            "image": pyarrow.array(cells, pyarrow.binary()),
            "label": pyarrow.array(labels.astype(np.uint8)),
            "lossless": pyarrow.array(lossless),
        }
    )
    pyarrow.parquet.write_table(table, file, row_group_size=33)


def text(value: bytes) -> bytes:
    """A Python 2 string as its pickles hold it (opcode BINSTRING)."""
    return b"T" + struct.pack("<i", len(value)) + value


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def python2_batch(images: np.ndarray, labels: np.ndarray) -> bytes:
    """A batch as Python 2 and its NumPy pickled it: protocol 2, strings of bytes."""
    rows, pixels = len(images), images[0].size
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R"
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
    array += number(0) + b"\x85" + text(b"b") + b"\x87R"
    array += b"(" + number(1) + number(rows) + number(pixels) + b"\x86" + dtype + b"\x89"
    array += text(images.tobytes()) + b"tb"
    items = text(b"batch_label") + text(b"training batch 1 of 5")
    items += text(b"labels") + b"](" + b"".join(number(int(each)) for each in labels) + b"e"
    items += text(b"data") + array
    return HEAD + items + b"u."


def pack(folder: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return archive


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()
