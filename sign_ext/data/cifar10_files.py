"""Finding CIFAR-10's files under a folder, and reading the original ones after checking them."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from pathlib import Path

from sign_ext.data.datasets.root import PUT_IT

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
