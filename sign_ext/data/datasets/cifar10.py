"""CIFAR-10 from its original files or from Parquet, with a validation split held out.

Three formats are read: the binary version (fixed-length records), the Python version (pickled
dictionaries, which are only opened after their checksum is verified), and two Parquet files.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sign_ext.data.datasets import WHERE_TO_PUT
from sign_ext.data.decode import decode_exact
from sign_ext.data.formats.parquet import ImageColumn, parquet_errors, read_columns
from sign_ext.data.lazy import ImageIndex, LazyDataset
from sign_ext.data.splits import SPLIT_SEED, SubsetSpec, stratified_choice

CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
SIZE = 32
TRAIN_IMAGES, TEST_IMAGES = 50_000, 10_000
VALIDATION_IMAGES = 5_000
IMAGES_PER_BATCH = 10_000
IMAGE_SHAPE = (3, SIZE, SIZE)
RECORD = 1 + 3 * SIZE * SIZE  # bytes of a label and an image in the binary version

HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"
BINARY_FOLDER, BINARY_ARCHIVE = "cifar-10-batches-bin", "cifar-10-binary.tar.gz"
PYTHON_FOLDER, PYTHON_ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
PARQUET_FILES = ("cifar10_train.parquet", "cifar10_test.parquet")
PARQUET_COLUMNS = ("image", "label", "lossless")
# As published on that page (archives) and by torchvision (the Python version's single files).
ARCHIVE_MD5 = {
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
}
PYTHON_FILE_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
BATCHES = tuple(PYTHON_FILE_MD5)

ACCEPTED = f"""accepted for cifar10 (the first that is found is read):
  - {BINARY_FOLDER}/ with data_batch_1.bin … data_batch_5.bin and test_batch.bin,
    or {BINARY_ARCHIVE}
  - {PYTHON_FOLDER}/ with data_batch_1 … data_batch_5 and test_batch, or {PYTHON_ARCHIVE}
  - {PARQUET_FILES[0]} and {PARQUET_FILES[1]} (columns {", ".join(PARQUET_COLUMNS)})
Download {BINARY_ARCHIVE} from {HOME} and put it into {WHERE_TO_PUT}"""

Arrays = tuple[np.ndarray, np.ndarray]  # pixels, uint8 (N, 3, 32, 32), and labels, int64 (N,)


def open_cifar10(root: Path, subset: SubsetSpec) -> LazyDataset:
    """List CIFAR-10: 45,000 training, 5,000 validation and 10,000 test images.

    The paper selects epochs on a validation set, which CIFAR-10 does not have (Section 3), so 500
    training images of each class are held out, always the same ones.

    Args:
        root: folder with one of the accepted formats (docs/data.md).
        subset: subset sizes and image size (default 32).

    Returns:
        The data set; ``note`` says which files it comes from, and how many images are exact.

    Raises:
        FileNotFoundError: missing files; the message lists those that are accepted.
        ValueError: a file that is damaged or not the published one, or a subset too large.
    """
    file_format, path = find_format(root)
    if file_format == "parquet":
        train, exact_train = _read_parquet(path / PARQUET_FILES[0], TRAIN_IMAGES)
        test, exact_test = _read_parquet(path / PARQUET_FILES[1], TEST_IMAGES)
        exact, total = exact_train + exact_test, len(train.labels) + len(test.labels)
        note = f"CIFAR-10 ({exact:,} of {total:,} images lossless)"
    else:
        batches = _read_binary(path) if file_format == "binary" else _read_python(path)
        test = _in_memory([batches.pop("test_batch")])
        train = _in_memory([batches[name] for name in sorted(batches)])
        note = f"CIFAR-10 (original {'binary' if file_format == 'binary' else 'Python'} files)"
    held_out = stratified_choice(train.labels, VALIDATION_IMAGES, seed=SPLIT_SEED)
    kept = np.setdiff1d(np.arange(len(train.labels)), held_out)
    splits = ((train, kept), (train, held_out), (test, np.arange(len(test.labels))))
    return LazyDataset("cifar10", note, CLASS_NAMES, splits, subset)


def find_format(root: Path) -> tuple[str, Path]:
    """Return the first of the accepted formats that a folder holds.

    Args:
        root: an existing folder; it may itself be the folder of an extracted archive.

    Returns:
        ``"binary"`` or ``"python"`` with an extracted folder or an archive, or ``"parquet"`` with
        the folder of the two files.

    Raises:
        FileNotFoundError: none of the accepted files is there.
    """
    for file_format, folder, archive in (
        ("binary", BINARY_FOLDER, BINARY_ARCHIVE),
        ("python", PYTHON_FOLDER, PYTHON_ARCHIVE),
    ):
        if root.resolve().name == folder:
            return file_format, root
        if (root / folder).is_dir():
            return file_format, root / folder
        if (root / archive).is_file():
            return file_format, root / archive
    missing = [name for name in PARQUET_FILES if not (root / name).is_file()]
    if not missing:
        return "parquet", root
    if len(missing) < len(PARQUET_FILES):
        found = next(name for name in PARQUET_FILES if name not in missing)
        raise FileNotFoundError(
            f"{root / missing[0]} is missing, although {found} is there. Put it into that folder, "
            f"or use {BINARY_ARCHIVE} from {HOME}."
        )
    raise FileNotFoundError(f"root={str(root)!r} holds no CIFAR-10 files; {ACCEPTED}")


def _in_memory(batches: list[Arrays]) -> ImageIndex:
    """Make an index of batches that are already in memory."""
    images = np.concatenate([pixels for pixels, _ in batches])
    labels = np.concatenate([batch_labels for _, batch_labels in batches])
    return ImageIndex(
        labels,
        lambda positions: torch.from_numpy(images[positions]),
        images.shape[-1],
        lambda positions: (images[position].tobytes() for position in positions),
        resident_bytes=images.nbytes,
    )


def _read_parquet(file: Path, images: int) -> tuple[ImageIndex, int]:
    """Open one Parquet file: read the labels now, the pixels on demand.

    Args:
        file: columns image (bytes of a 32×32 WebP), label (0–9), lossless (bool).
        images: the required number of rows.

    Returns:
        The images, and how many of them are marked lossless.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
        ValueError: not such a file.
    """
    with parquet_errors("CIFAR-10", file):
        table = read_columns(file, PARQUET_COLUMNS, images)
        labels = table["label"].to_numpy().astype(np.int64)
        lossless = int(table["lossless"].to_numpy().astype(bool).sum())
        if labels.min() < 0 or labels.max() > 9:
            raise ValueError("it has labels outside 0 to 9")
        column = ImageColumn(file)

    def read(rows: np.ndarray) -> Tensor:
        names = [f"{file}, row {row}" for row in rows]
        # One thread: images this small are decoded under the GIL, so more threads gain nothing.
        return decode_exact(column.read(rows), names, SIZE, "WEBP", threads=1)

    index = ImageIndex(labels, read, SIZE, column.identities, resident_bytes=column.resident_bytes)
    return index, lossless


def _read_binary(path: Path) -> dict[str, Arrays]:
    """Read the binary version: records of one label byte and 3,072 pixel bytes (red, green, blue).

    Args:
        path: cifar-10-batches-bin/ or cifar-10-binary.tar.gz.

    Returns:
        Batch name → pixels and labels.

    Raises:
        FileNotFoundError: a batch is missing.
        ValueError: a wrong checksum, length or label.
    """
    batches = {}
    for name, data in _read_batches(path, ".bin").items():
        if len(data) != IMAGES_PER_BATCH * RECORD:
            raise ValueError(
                f"{name}.bin of {path} has {len(data):,} bytes; accepted: "
                f"{IMAGES_PER_BATCH * RECORD:,} ({IMAGES_PER_BATCH:,} records of {RECORD:,}). "
                f"It is incomplete or another file; download it again from {HOME}."
            )
        records = np.frombuffer(data, dtype=np.uint8).reshape(-1, RECORD)
        images = records[:, 1:].reshape(-1, *IMAGE_SHAPE)
        batches[name] = _checked(images, records[:, 0], f"{name}.bin of {path}")
    return batches


def _read_python(path: Path) -> dict[str, Arrays]:
    """Read the Python version: verify the checksums, then unpickle arrays and nothing else.

    Args:
        path: cifar-10-batches-py/ or cifar-10-python.tar.gz.

    Returns:
        Batch name → pixels and labels.

    Raises:
        FileNotFoundError: a batch is missing.
        ValueError: a checksum other than the published one, or content of another format.
    """
    batches = _read_batches(path, "")
    # An archive's own checksum was verified before its members were read.
    if path.is_dir():
        advice = (
            "These files are pickles, which can run code, so only the published ones are read. "
            f"Use {BINARY_ARCHIVE} instead, which needs no unpickling, or download "
            f"{PYTHON_ARCHIVE} again, both from {HOME}."
        )
        for name, data in batches.items():
            _check_md5(data, path / name, PYTHON_FILE_MD5[name], advice)
    return {name: unpickle_batch(data, f"{name} of {path}") for name, data in batches.items()}


def unpickle_batch(data: bytes, name: str) -> Arrays:
    """Extract pixels and labels from a pickled batch whose checksum was verified.

    Args:
        data: the pickle.
        name: what an error message calls it.

    Returns:
        Pixels and labels.

    Raises:
        ValueError: it refers to anything but a NumPy array, or is not a CIFAR-10 batch.
    """
    try:
        batch = _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
        images = batch[b"data"].numpy().reshape(-1, *IMAGE_SHAPE)
        labels = np.asarray(batch[b"labels"], dtype=np.int64)
    # A pickle with unexpected content can fail in any of these ways.
    except (
        pickle.UnpicklingError,
        AttributeError,
        EOFError,
        LookupError,
        OverflowError,
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(f"{name} is not a CIFAR-10 batch: {error}.") from error
    return _checked(images, labels, name)


class _ArrayState:
    """Replaces ``numpy.ndarray`` while unpickling: keeps the array's state as plain data."""

    def __init__(self, *_: Any) -> None:
        """Ignore the arguments of the reconstruction; the state that follows is complete."""
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        """Keep (version, shape, dtype, Fortran order, bytes)."""
        self.state = state

    def numpy(self) -> np.ndarray:
        """Return the bytes as a C-contiguous uint8 array."""
        _, shape, dtype, fortran_order, data = self.state
        if not isinstance(dtype, _DtypeState) or dtype.code != b"u1" or fortran_order:
            raise ValueError("its data is not a row-major array of bytes")
        return np.frombuffer(data, dtype=np.uint8).reshape(shape)


class _DtypeState:
    """Replaces ``numpy.dtype`` while unpickling."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        """Keep the type code."""
        self.code = code

    def __setstate__(self, _: Any) -> None:
        """Ignore byte order and alignment, which single bytes do not have."""


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that knows the three names in CIFAR-10's files and refuses all others.

    Even these three do not resolve to NumPy's own but to the replacements above, so a pickle can
    call nothing else.
    """

    NAMES = {  # noqa: RUF012 - never changed
        ("numpy.core.multiarray", "_reconstruct"): _ArrayState,
        ("numpy", "ndarray"): _ArrayState,
        ("numpy", "dtype"): _DtypeState,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of a known name."""
        if (module, name) not in self.NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed")
        return self.NAMES[module, name]


def _checked(images: np.ndarray, labels: np.ndarray, name: str) -> Arrays:
    """Return a batch with int64 labels if its length and labels are CIFAR-10's.

    Args:
        images: uint8 (N, 3, 32, 32).
        labels: integers (N,).
        name: what an error message calls the batch.

    Raises:
        ValueError: another number of images, or labels outside 0–9.
    """
    if images.shape != (IMAGES_PER_BATCH, *IMAGE_SHAPE) or labels.shape != (IMAGES_PER_BATCH,):
        raise ValueError(
            f"{name} holds {len(images):,} images and {len(labels):,} labels; accepted: "
            f"{IMAGES_PER_BATCH:,} of each."
        )
    if int(labels.min()) < 0 or int(labels.max()) > 9:
        raise ValueError(
            f"{name} has labels from {int(labels.min())} to {int(labels.max())}; accepted: 0 to 9."
        )
    return images, labels.astype(np.int64)


def _read_batches(path: Path, suffix: str) -> dict[str, bytes]:
    """Read the six batch files of an extracted folder or of its archive.

    An archive is checked against its published MD5 before it is opened.

    Args:
        path: the folder or the .tar.gz.
        suffix: what follows the batch names, ``".bin"`` or ``""``.

    Returns:
        Batch name (``"data_batch_1"`` … ``"test_batch"``) → the file's bytes.

    Raises:
        FileNotFoundError: a batch is missing.
        ValueError: the archive is not the published one.
    """
    if not path.is_dir():
        archive = path.read_bytes()
        _check_md5(archive, path, ARCHIVE_MD5[path.name], f"Download it again from {HOME}.")
        return _extract_batches(archive, path, suffix)
    batches = {}
    for name in BATCHES:
        file = path / (name + suffix)
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} is missing. Extract the whole archive again; it is at {HOME}."
            )
        batches[name] = file.read_bytes()
    return batches


def _extract_batches(archive: bytes, path: Path, suffix: str) -> dict[str, bytes]:
    """Extract the batches of a .tar.gz in memory; nothing is written to disk."""
    batches = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            for member in tar:
                name = Path(member.name).name.removesuffix(suffix)
                file = tar.extractfile(member) if name in BATCHES else None
                if file is not None:
                    batches[name] = file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be unpacked: {error}. Download it again from {HOME}."
        ) from error
    missing = [name for name in BATCHES if name not in batches]
    if missing:
        raise FileNotFoundError(
            f"{path} holds no {missing[0]}{suffix}. Download it again from {HOME}."
        )
    return batches


def _check_md5(data: bytes, path: Path, expected: str, advice: str) -> None:
    """Raise ValueError if the MD5 of some bytes is not the published one.

    Args:
        data: the bytes that will be used (not the file, which could change in between).
        path: where they come from, for the message.
        expected: the published MD5, 32 hexadecimal digits.
        advice: what to try next; ends the message.
    """
    # MD5 is what the owner published; it guards against damage and mix-ups, not against attacks.
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != expected:
        raise ValueError(
            f"{path} has the MD5 {found}, but the published one is {expected}: it is damaged, "
            f"incomplete or another file, and was not opened. {advice}"
        )
