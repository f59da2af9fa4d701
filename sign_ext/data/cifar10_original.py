"""CIFAR-10's two original forms: fixed-length binary records, and pickled Python dictionaries."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from sign_ext.data import cifar10_files as files

IMAGES_PER_BATCH = 10_000
IMAGE_SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
RECORD = 1 + PIXELS

Arrays = tuple[np.ndarray, np.ndarray]  # uint8 (N, 3, 32, 32) and int64 (N,)


def read_binary(path: Path) -> dict[str, Arrays]:
    """Read the binary version: records of one label byte and 3,072 pixel bytes (red, green, blue).

    Args:
        path: cifar-10-batches-bin/ or cifar-10-binary.tar.gz.

    Returns:
        Batch name → pixels and labels.

    Raises:
        FileNotFoundError: a batch is missing.
        ValueError: a wrong checksum, length or label.
    """
    result = {}
    for name, data in files.read_batches(path, ".bin").items():
        if len(data) != IMAGES_PER_BATCH * RECORD:
            raise ValueError(
                f"{name}.bin of {path} has {len(data):,} bytes; accepted: "
                f"{IMAGES_PER_BATCH * RECORD:,} ({IMAGES_PER_BATCH:,} records of {RECORD:,}). "
                f"It is incomplete or another file; get it again from {files.HOME}."
            )
        records = np.frombuffer(data, dtype=np.uint8).reshape(-1, RECORD)
        images = records[:, 1:].reshape(-1, *IMAGE_SHAPE)
        result[name] = checked(images, records[:, 0], f"{name}.bin of {path}")
    return result


def read_python(path: Path) -> dict[str, Arrays]:
    """Read the Python version: verified first, then unpickled with nothing but arrays allowed.

    Args:
        path: cifar-10-batches-py/ or cifar-10-python.tar.gz.

    Returns:
        Batch name → pixels and labels.

    Raises:
        FileNotFoundError: a batch is missing.
        ValueError: a checksum that is not the published one, or content that is not the format's.
    """
    batches = files.read_batches(path, "")
    if path.is_dir():
        instead = (
            "These files are pickles, which can run code, so only the published ones are read. "
            f"Use {files.BINARY_ARCHIVE} instead, which needs no unpickling, or get "
            f"{files.PYTHON_ARCHIVE} again, both from {files.HOME}."
        )
        for name, data in batches.items():
            files.check_md5(data, path / name, files.PYTHON_FILE_MD5[name], instead)
    return {name: parse_python(data, f"{name} of {path}") for name, data in batches.items()}


def parse_python(data: bytes, where: str) -> Arrays:
    """Take pixels and labels out of one pickled batch whose checksum was right.

    Args:
        data: the pickle.
        where: what an error calls it.

    Returns:
        Pixels and labels.

    Raises:
        ValueError: it refers to anything but a NumPy array, or is not a CIFAR-10 batch.
    """
    try:
        batch = ArraysOnly(io.BytesIO(data), encoding="bytes").load()
        images = batch[b"data"].numpy().reshape(-1, *IMAGE_SHAPE)
        labels = np.asarray(batch[b"labels"], dtype=np.int64)
    # A pickle that is not what it should be can fail in any of these ways.
    except (
        pickle.UnpicklingError,
        AttributeError,
        EOFError,
        LookupError,
        OverflowError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(f"{where} is not a CIFAR-10 batch: {error}.") from error
    return checked(images, labels, where)


class PickledArray:
    """Stands in for ``numpy.ndarray`` while unpickling: keeps the array's state as plain data."""

    def __init__(self, *_: Any) -> None:
        """Ignore the arguments of the reconstruction: the state that follows says everything."""
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        """Keep (version, shape, dtype, column order, bytes)."""
        self.state = state

    def numpy(self) -> np.ndarray:
        """Return the bytes as a row-major uint8 array."""
        _, shape, dtype, column_order, data = self.state
        if not isinstance(dtype, PickledType) or dtype.code != b"u1" or column_order:
            raise ValueError("its data is not a row-major array of bytes")
        return np.frombuffer(data, dtype=np.uint8).reshape(shape)


class PickledType:
    """Stands in for ``numpy.dtype`` while unpickling."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        """Keep the type code."""
        self.code = code

    def __setstate__(self, _: Any) -> None:
        """Ignore byte order and alignment, which single bytes have not."""


class ArraysOnly(pickle.Unpickler):
    """An unpickler that knows the three names in CIFAR-10's files and refuses every other one.

    Even these three are not NumPy's own: they resolve to the stand-ins above, so that no
    pickle-driven code but theirs runs.
    """

    NAMES = {  # noqa: RUF012 - never changed
        ("numpy.core.multiarray", "_reconstruct"): PickledArray,
        ("numpy", "ndarray"): PickledArray,
        ("numpy", "dtype"): PickledType,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a known name."""
        if (module, name) not in self.NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed")
        return self.NAMES[module, name]


def checked(images: np.ndarray, labels: np.ndarray, where: str) -> Arrays:
    """Return a batch with int64 labels if its length and labels are CIFAR-10's.

    Args:
        images: uint8 (N, 3, 32, 32).
        labels: integers (N,).
        where: what an error calls the batch.

    Raises:
        ValueError: another number of images, or labels outside 0–9.
    """
    if images.shape != (IMAGES_PER_BATCH, *IMAGE_SHAPE) or labels.shape != (IMAGES_PER_BATCH,):
        raise ValueError(
            f"{where} holds {len(images):,} images and {len(labels):,} labels; accepted: "
            f"{IMAGES_PER_BATCH:,} of each."
        )
    if int(labels.min()) < 0 or int(labels.max()) > 9:
        raise ValueError(
            f"{where} has labels from {int(labels.min())} to {int(labels.max())}; accepted: 0 to 9."
        )
    return images, labels.astype(np.int64)
