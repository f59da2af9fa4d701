"""CIFAR-10 from its original files or from Parquet, with a validation set held out."""

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

from sign_ext.data.datasets.root import PUT_IT
from sign_ext.data.decode import decode_exact
from sign_ext.data.formats.parquet import Cells, read_columns, usable_as
from sign_ext.data.lazy import ImageIndex, LazyDataset
from sign_ext.data.splits import SPLIT_SEED, SubsetSpec, stratified_choice

# CIFAR-10 as two Parquet files of WebP images with a flag for the exact ones.


COLUMNS = ("image", "label", "lossless")
SIZE = 32


def read_parquet(file: Path, images: int) -> tuple[ImageIndex, int]:
    """Open one Parquet file: labels now, pixels when they are asked for.

    Args:
        file: columns image (bytes of a 32×32 WebP), label (0–9), lossless (bool).
        images: the number of rows that there must be.

    Returns:
        The pool of images, and how many of its rows are marked lossless.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
        ValueError: not such a file.
    """
    with usable_as("CIFAR-10", file):
        table = read_columns(file, COLUMNS, images)
        labels = table["label"].to_numpy().astype(np.int64)
        lossless = int(table["lossless"].to_numpy().astype(bool).sum())
        if labels.min() < 0 or labels.max() > 9:
            raise ValueError("it has labels outside 0 to 9")
        cells = Cells(file)

    def read(where: np.ndarray) -> Tensor:
        names = [f"{file}, row {row}" for row in where]
        # One thread: images this small spend their time under Python's lock, so more gain nothing.
        return decode_exact(cells.read(where), names, SIZE, "WEBP", threads=1)

    pool = ImageIndex(labels, read, SIZE, cells.identities, resident_bytes=cells.resident_bytes)
    return pool, lossless


# CIFAR-10's two original forms: fixed-length binary records, and pickled Python dictionaries.


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
    for name, data in read_batches(path, ".bin").items():
        if len(data) != IMAGES_PER_BATCH * RECORD:
            raise ValueError(
                f"{name}.bin of {path} has {len(data):,} bytes; accepted: "
                f"{IMAGES_PER_BATCH * RECORD:,} ({IMAGES_PER_BATCH:,} records of {RECORD:,}). "
                f"It is incomplete or another file; get it again from {HOME}."
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
    batches = read_batches(path, "")
    if path.is_dir():
        instead = (
            "These files are pickles, which can run code, so only the published ones are read. "
            f"Use {BINARY_ARCHIVE} instead, which needs no unpickling, or get "
            f"{PYTHON_ARCHIVE} again, both from {HOME}."
        )
        for name, data in batches.items():
            check_md5(data, path / name, PYTHON_FILE_MD5[name], instead)
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


# Finding CIFAR-10's files under a folder, and reading the original ones after checking them.


HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"

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

PARQUET_FILES = ("cifar10_train.parquet", "cifar10_test.parquet")
BINARY_FOLDER, BINARY_ARCHIVE = "cifar-10-batches-bin", "cifar-10-binary.tar.gz"
PYTHON_FOLDER, PYTHON_ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"

ACCEPTED = f"""accepted are, in this order:
  {BINARY_FOLDER}/ with data_batch_1.bin … data_batch_5.bin and test_batch.bin, or {BINARY_ARCHIVE}
  {PYTHON_FOLDER}/ with data_batch_1 … data_batch_5 and test_batch, or {PYTHON_ARCHIVE}
  {PARQUET_FILES[0]} and {PARQUET_FILES[1]} (columns image, label, lossless)
Download {BINARY_ARCHIVE} from {HOME} and put it into {PUT_IT}"""


def find_format(root: Path) -> tuple[str, Path]:
    """Name the first form of CIFAR-10 that lies under a folder.

    Args:
        root: a folder that is there; it may itself be one of the extracted archives' folders.

    Returns:
        ``"binary"`` or ``"python"`` with an extracted folder or an archive, or ``"parquet"`` with
        the folder of the two files.

    Raises:
        FileNotFoundError: nothing that is accepted lies there.
    """
    for kind, folder, archive in (
        ("binary", BINARY_FOLDER, BINARY_ARCHIVE),
        ("python", PYTHON_FOLDER, PYTHON_ARCHIVE),
    ):
        if root.resolve().name == folder:
            return kind, root
        if (root / folder).is_dir():
            return kind, root / folder
        if (root / archive).is_file():
            return kind, root / archive
    there = [name for name in PARQUET_FILES if (root / name).is_file()]
    if there:
        missing = [name for name in PARQUET_FILES if name not in there]
        if missing:
            raise FileNotFoundError(f"{root / missing[0]} is missing beside {there[0]}.")
        return "parquet", root
    raise FileNotFoundError(f"root={str(root)!r} holds no CIFAR-10 files. For cifar10 {ACCEPTED}")


def check_md5(data: bytes, path: Path, expected: str, instead: str) -> None:
    """Refuse bytes whose MD5 is not the published one.

    Args:
        data: the bytes that will be used (not the file again, which could change meanwhile).
        path: where they came from, for the message.
        expected: the published MD5, 32 hexadecimal digits.
        instead: what the reader can do, ends the message.

    Raises:
        ValueError: the checksum differs.
    """
    # MD5 is what the owner published; it guards against damage and mix-ups.
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != expected:
        raise ValueError(
            f"{path} has the MD5 {found}, but the published one is {expected}: it is damaged, "
            f"incomplete or another file, and was not opened. {instead}"
        )


def read_batches(path: Path, suffix: str) -> dict[str, bytes]:
    """Read the six batch files of an extracted folder or of its archive.

    Archives are checked against their published MD5 before anything in them is looked at.

    Args:
        path: the folder or the .tar.gz.
        suffix: what follows the batch names, ``".bin"`` or ``""``.

    Returns:
        Batch name (``"data_batch_1"`` … ``"test_batch"``) → the file's bytes.

    Raises:
        FileNotFoundError: a batch is missing.
        ValueError: the archive is not the published one.
    """
    if path.is_dir():
        batches = {}
        for name in BATCHES:
            file = path / (name + suffix)
            if not file.is_file():
                raise FileNotFoundError(
                    f"{file} is missing. Extract the whole archive again; it is at {HOME}."
                )
            batches[name] = file.read_bytes()
        return batches
    archive = path.read_bytes()
    check_md5(archive, path, ARCHIVE_MD5[path.name], f"Download it again from {HOME}.")
    return _members(archive, path, suffix)


def _members(archive: bytes, path: Path, suffix: str) -> dict[str, bytes]:
    """Take the batches out of a .tar.gz in memory; nothing is written to disk."""
    batches = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            for member in tar:
                name = Path(member.name).name.removesuffix(suffix)
                file = tar.extractfile(member) if name in BATCHES else None
                if file is not None:
                    batches[name] = file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} cannot be unpacked: {error}.") from error
    missing = [name for name in BATCHES if name not in batches]
    if missing:
        raise FileNotFoundError(f"{path} holds no {missing[0]}{suffix}.")
    return batches


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
TRAIN_IMAGES, TEST_IMAGES = 50_000, 10_000
VALIDATION_IMAGES = 5_000


def open_cifar10(root: Path, wanted: SubsetSpec) -> LazyDataset:
    """Find CIFAR-10: 45,000 training, 5,000 validation and 10,000 test images.

    The paper selects epochs on a validation set that CIFAR-10 does not have (Section 3), so 500
    training images of each class are held out, always the same ones.

    Args:
        root: folder with one of the accepted forms of the data (docs/data.md).
        wanted: subset sizes and image size (default 32).

    Returns:
        The splits, unread; ``note`` says which files they came from, and how many images are exact.

    Raises:
        FileNotFoundError: the files are not there; the message lists those accepted.
        ValueError: a file that is damaged or not the published one, or a subset too large.
    """
    form, path = find_format(root)
    if form == "parquet":
        train, exact_train = read_parquet(path / PARQUET_FILES[0], TRAIN_IMAGES)
        test, exact_test = read_parquet(path / PARQUET_FILES[1], TEST_IMAGES)
        exact, total = exact_train + exact_test, len(train.labels) + len(test.labels)
        note = f"CIFAR-10 ({exact:,} of {total:,} images lossless)"
    else:
        batches = read_binary(path) if form == "binary" else read_python(path)
        test = _pool([batches.pop("test_batch")])
        train = _pool([batches[name] for name in sorted(batches)])
        note = f"CIFAR-10 (original {'binary' if form == 'binary' else 'Python'} files)"
    held_out = stratified_choice(train.labels, VALIDATION_IMAGES, seed=SPLIT_SEED)
    kept = np.setdiff1d(np.arange(len(train.labels)), held_out)
    parts = ((train, kept), (train, held_out), (test, np.arange(len(test.labels))))
    return LazyDataset("cifar10", note, CLASS_NAMES, parts, wanted)


def _pool(batches: list[Arrays]) -> ImageIndex:
    """Join batches that are in memory already."""
    images = np.concatenate([pixels for pixels, _ in batches])
    labels = np.concatenate([each for _, each in batches])
    return ImageIndex(
        labels,
        lambda where: torch.from_numpy(images[where]),
        images.shape[-1],
        lambda where: (images[position].tobytes() for position in where),
        resident_bytes=images.nbytes,
    )
