"""Tiny ImageNet on disk: the extracted folder, the original archive, or one Parquet file."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sign_ext.data.datasets.root import PUT_IT
from sign_ext.data.formats.parquet import Cells, read_columns, usable_as

HOME = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
FOLDER, ARCHIVE = "tiny-imagenet-200", "tiny-imagenet-200.zip"
PARQUET_FILE = "tiny_imagenet_20_classes.parquet"
ANNOTATIONS = "val/val_annotations.txt"
SYNSET = re.compile(r"n\d{8}")

ACCEPTED = f"""accepted are, in this order:
  {FOLDER}/ with train/ and val/
  {ARCHIVE}, read without being extracted
  {PARQUET_FILE} (columns split, wnid, cifar10_class, file, image)
Download the archive from {HOME} and put it into {PUT_IT}"""


@dataclass(frozen=True)
class Found:
    """One image as it is stored.

    Args:
        split: ``"train"`` or ``"val"``.
        wnid: its synset.
        file: its file name.
        data: its compressed bytes.
        where: what an error calls it.
    """

    split: str
    wnid: str
    file: str
    data: bytes
    where: str


def find_format(root: Path) -> tuple[str, Path]:
    """Name the first form of Tiny ImageNet that lies under a folder.

    Args:
        root: a folder that is there; it may itself be the extracted archive's.

    Returns:
        ``"original"`` with the folder or the archive, or ``"parquet"`` with the file.

    Raises:
        FileNotFoundError: nothing that is accepted lies there.
    """
    if root.resolve().name == FOLDER:
        return "original", root
    if (root / FOLDER).is_dir():
        return "original", root / FOLDER
    if (root / ARCHIVE).is_file():
        return "original", root / ARCHIVE
    if (root / PARQUET_FILE).is_file():
        return "parquet", root / PARQUET_FILE
    raise FileNotFoundError(
        f"root={str(root)!r} holds no Tiny ImageNet files. For tiny_imagenet {ACCEPTED}"
    )


def read_original(path: Path, splits: tuple[str, ...], wnids: Collection[str]) -> list[Found]:
    """Read some synsets' images of the original files.

    Args:
        path: tiny-imagenet-200/ or tiny-imagenet-200.zip.
        splits: of ``"train"`` and ``"val"``.
        wnids: the synsets.

    Returns:
        The images.

    Raises:
        FileNotFoundError: the annotations are missing.
        ValueError: an archive that cannot be unpacked, or names that are not the format's.
    """
    try:
        with _Source(path) as source:
            found = _read_train(source, wnids) if "train" in splits else []
            return found + (_read_val(source, wnids) if "val" in splits else [])
    # What zipfile raises for archives that are cut short, damaged, encrypted or of a new kind.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(
            f"{path} cannot be unpacked: {error}. Get it again from {HOME}."
        ) from error


def read_parquet(file: Path, splits: tuple[str, ...], classes: dict[str, str]) -> list[Found]:
    """Read some synsets' images of the Parquet file.

    Args:
        file: columns split, wnid, cifar10_class, file and image (bytes of a JPEG).
        splits: of ``"train"`` and ``"val"``.
        classes: each wanted synset's CIFAR-10 class, which the file must agree with.

    Returns:
        The images.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
        ValueError: not such a file.
    """
    import numpy as np

    names = ("split", "wnid", "cifar10_class", "file")
    with usable_as("Tiny ImageNet", file):
        table = read_columns(file, (*names, "image"))
        rows = list(zip(*(table[name].to_pylist() for name in names), strict=True))
        chosen = []
        for row, (split, wnid, class_name, _) in enumerate(rows):
            if split not in ("train", "val"):
                raise ValueError(f"row {row}: split is {split!r}; accepted: train, val")
            if classes.get(wnid, class_name) != class_name:
                raise ValueError(
                    f"row {row}: cifar10_class of {wnid} is {class_name!r}; accepted: "
                    f"{classes[wnid]!r}"
                )
            if split in splits and wnid in classes:
                chosen.append(row)
    cells = Cells(file).read(np.asarray(chosen, dtype=np.int64))
    return [
        Found(rows[row][0], rows[row][1], rows[row][3], cell, f"{file}, row {row}")
        for row, cell in zip(chosen, cells, strict=True)
    ]


class _Source:
    """The files of tiny-imagenet-200, in a folder or in its archive."""

    def __init__(self, path: Path) -> None:
        """List an archive's members once, there are 120,000."""
        self.path = path
        self._archive = None if path.is_dir() else zipfile.ZipFile(path)
        self._members: dict[str, list[str]] = {}
        for member in self._archive.namelist() if self._archive else ():
            folder, _, name = member.rpartition("/")
            self._members.setdefault(folder.removeprefix(f"{FOLDER}/"), []).append(name)

    def __enter__(self) -> _Source:
        """Give the source itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the archive."""
        if self._archive is not None:
            self._archive.close()

    def names(self, folder: str) -> list[str]:
        """Return the names of a folder's JPEG files, sorted."""
        if self._archive is None:
            below = self.path / folder
            names = [each.name for each in below.iterdir()] if below.is_dir() else []
        else:
            names = self._members.get(folder, [])
        return sorted(name for name in names if name.endswith(".JPEG") and name[0] != ".")

    def read(self, name: str) -> bytes:
        """Return a file's bytes; an archive's members are checked against their CRC."""
        if self._archive is None:
            return (self.path / name).read_bytes()
        return self._archive.read(f"{FOLDER}/{name}")


def _read_train(source: _Source, wnids: Collection[str]) -> list[Found]:
    """Read train/WNID/images/WNID_0.JPEG and so on."""
    found = []
    for wnid in wnids:
        folder = f"train/{wnid}/images"
        for name in source.names(folder):
            where = f"{source.path / folder / name}"
            if not name.startswith(f"{wnid}_"):
                raise ValueError(
                    f"{where} lies in the folder of {wnid}, whose files are called {wnid}_*.JPEG."
                )
            found.append(Found("train", wnid, name, source.read(f"{folder}/{name}"), where))
    return found


def _read_val(source: _Source, wnids: Collection[str]) -> list[Found]:
    """Read val/images/val_0.JPEG and so on, whose synsets val/val_annotations.txt tells."""
    table = source.path / ANNOTATIONS
    try:
        text = source.read(ANNOTATIONS)
    except (FileNotFoundError, KeyError) as error:
        raise FileNotFoundError(f"{table} is missing. Get {ARCHIVE} again from {HOME}.") from error
    images = set(source.names("val/images"))
    told: dict[str, int] = {}
    found = []
    for line, row in enumerate(text.decode("utf-8", errors="replace").splitlines(), start=1):
        cells = row.split("\t")
        if len(cells) != 6 or not SYNSET.fullmatch(cells[1]):
            raise ValueError(
                f"{table}, line {line} is {row!r}; accepted: file, synset (n and eight digits) and "
                "four numbers, with tabs between them."
            )
        name, wnid = cells[:2]
        if name in told:
            raise ValueError(f"{table}, line {line}: {name} was on line {told[name]} already.")
        if name not in images:
            raise ValueError(f"{table}, line {line}: {source.path / 'val/images'} holds no {name}.")
        told[name] = line
        if wnid in wnids:
            where = f"{source.path / 'val/images' / name}"
            found.append(Found("val", wnid, name, source.read(f"val/images/{name}"), where))
    without = sorted(images - told.keys())
    if without:
        raise ValueError(f"{source.path / 'val/images' / without[0]} has no line in {table}.")
    return found
