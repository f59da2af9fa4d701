"""Tiny ImageNet's images of five of CIFAR-10's classes: Table 3's out-of-distribution test.

Three formats are read: the extracted folder, the original archive, or one Parquet file.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from sign_ext.data.datasets import WHERE_TO_PUT
from sign_ext.data.datasets.cifar10 import CLASS_NAMES
from sign_ext.data.decode import average_areas, decode_exact, is_greyscale, resize_images
from sign_ext.data.formats.parquet import ImageColumn, parquet_errors, read_columns
from sign_ext.data.image_set import ImageSet
from sign_ext.formatting import counted

# Those of Tiny ImageNet's 200 synsets that are one of CIFAR-10's classes.
CLASS_SYNSETS = {
    # beach wagon, convertible, limousine, sports car
    "automobile": ("n02814533", "n03100240", "n03670208", "n04285008"),
    # goose, black stork, king penguin, albatross
    "bird": ("n01855672", "n02002724", "n02056570", "n02058221"),
    # tabby, Persian, Egyptian, cougar
    "cat": ("n02123045", "n02123394", "n02124075", "n02125311"),
    # chihuahua, Yorkshire terrier, golden retriever, Labrador, German shepherd, standard poodle
    "dog": ("n02085620", "n02094433", "n02099601", "n02099712", "n02106662", "n02113799"),
    # bullfrog, tailed frog
    "frog": ("n01641577", "n01644900"),
}
# The paper states counts but no synsets. Without greyscale images, only validation images of these
# synsets add up to its counts: sports car; goose, stork, albatross; tabby; all dogs; all frogs.
# The counts alone would also allow the convertible, the king penguin, and the Egyptian cat or the
# cougar, each in place of another synset of its class.
PAPER_SYNSETS = {
    "automobile": ("n04285008",),
    "bird": ("n01855672", "n02002724", "n02058221"),
    "cat": ("n02123045",),
    "dog": CLASS_SYNSETS["dog"],
    "frog": CLASS_SYNSETS["frog"],
}
PAPER_COUNTS = {"automobile": 49, "bird": 146, "cat": 50, "dog": 298, "frog": 100}
# The splits and synsets of load_ood's synsets="paper" and "all".
CHOICES = {"paper": (("val",), PAPER_SYNSETS), "all": (("train", "val"), CLASS_SYNSETS)}
IMAGES = {"train": 500, "val": 50}  # of each synset, greyscale ones included
ORIGINAL_SIZE = 64
DEFAULT_SIZE = 32  # CIFAR-10's

HOME = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
FOLDER, ARCHIVE = "tiny-imagenet-200", "tiny-imagenet-200.zip"
PARQUET_FILE = "tiny_imagenet_20_classes.parquet"
PARQUET_COLUMNS = ("split", "wnid", "cifar10_class", "file", "image")
ANNOTATIONS = "val/val_annotations.txt"
SYNSET = re.compile(r"n\d{8}")

ACCEPTED = f"""accepted for tiny_imagenet (the first that is found is read):
  - {FOLDER}/ with train/ and val/
  - {ARCHIVE}, read without being extracted
  - {PARQUET_FILE} (columns {", ".join(PARQUET_COLUMNS)})
Download the archive from {HOME} and put it into {WHERE_TO_PUT}"""


def load_tiny_imagenet(
    root: Path, *, synsets: str = "paper", image_size: int | None = None
) -> ImageSet:
    """Read the images of Tiny ImageNet that show one of CIFAR-10's classes (Table 3).

    Greyscale images are left out, as the paper's counts imply. Images are reduced by averaging
    areas (four pixels become one at 32×32), or enlarged bilinearly.

    Args:
        root: folder with one of the accepted formats (docs/data.md).
        synsets: ``"paper"`` for the 643 images of the paper's Table 3, as far as they can be
            reconstructed; ``"all"`` for the training and validation images of all 20 synsets.
        image_size: height and width in pixels; None for CIFAR-10's 32.

    Returns:
        Images with CIFAR-10's ten class names and labels, ordered by class, synset and name; five
        of the classes have none.

    Raises:
        FileNotFoundError: missing files; the message lists those that are accepted.
        ValueError: a file that is damaged or not the published one.
    """
    splits, synsets_of_class = CHOICES[synsets]
    class_of = {wnid: name for name, wnids in synsets_of_class.items() for wnid in wnids}
    file_format, path = find_format(root)
    if file_format == "original":
        images = _read_original(path, splits, class_of)
    else:
        images = _read_parquet(path, splits, class_of)
    _check_complete(images, splits, class_of, path)
    images = [each for each in images if not is_greyscale(each.data, each.location, "JPEG")]
    images.sort(key=lambda each: (CLASS_NAMES.index(class_of[each.wnid]), each.wnid, each.file))
    if synsets == "paper":
        _check_paper_counts(Counter(class_of[each.wnid] for each in images), path)
    pixels = decode_exact(
        [each.data for each in images],
        [each.location for each in images],
        ORIGINAL_SIZE,
        "JPEG",
        # One thread: images this small are decoded under the GIL, so more threads gain nothing.
        threads=1,
    )
    size = image_size or DEFAULT_SIZE
    resize = average_areas if size <= ORIGINAL_SIZE else resize_images
    labels = torch.tensor([CLASS_NAMES.index(class_of[each.wnid]) for each in images])
    return ImageSet(resize(pixels, size), labels, CLASS_NAMES, f"tiny_imagenet/{synsets}")


def find_format(root: Path) -> tuple[str, Path]:
    """Return the first of the accepted formats that a folder holds.

    Args:
        root: an existing folder; it may itself be the folder of the extracted archive.

    Returns:
        ``"original"`` with the folder or the archive, or ``"parquet"`` with the file.

    Raises:
        FileNotFoundError: none of the accepted files is there.
    """
    if root.resolve().name == FOLDER:
        return "original", root
    if (root / FOLDER).is_dir():
        return "original", root / FOLDER
    if (root / ARCHIVE).is_file():
        return "original", root / ARCHIVE
    if (root / PARQUET_FILE).is_file():
        return "parquet", root / PARQUET_FILE
    raise FileNotFoundError(f"root={str(root)!r} holds no Tiny ImageNet files; {ACCEPTED}")


@dataclass(frozen=True)
class StoredImage:
    """One image as it is stored.

    Args:
        split: ``"train"`` or ``"val"``.
        wnid: its synset.
        file: its file name.
        data: its compressed bytes.
        location: what an error message calls it.
    """

    split: str
    wnid: str
    file: str
    data: bytes
    location: str


def _check_complete(
    images: list[StoredImage], splits: tuple[str, ...], wnids: Collection[str], path: Path
) -> None:
    """Raise ValueError unless every synset has its published number of images."""
    counts = Counter((each.split, each.wnid) for each in images)
    for split in splits:
        for wnid in wnids:
            if counts[split, wnid] != IMAGES[split]:
                raise ValueError(
                    f"{path} has {counted(counts[split, wnid], 'image')} of {wnid} in {split}; "
                    f"accepted: {IMAGES[split]}. It is incomplete or changed; download it from "
                    f"{HOME}."
                )


def _check_paper_counts(counts: Counter[str], path: Path) -> None:
    """Raise ValueError unless there are as many colour images of each class as in the paper."""
    if dict(counts) != PAPER_COUNTS:
        raise ValueError(
            f"{path} has {dict(counts)} colour images; accepted: {PAPER_COUNTS}, the paper's. Its "
            f"images were changed; download them from {HOME}."
        )


def _read_parquet(
    file: Path, splits: tuple[str, ...], class_of: dict[str, str]
) -> list[StoredImage]:
    """Read some synsets' images from the Parquet file.

    Args:
        file: columns split, wnid, cifar10_class, file and image (bytes of a JPEG).
        splits: of ``"train"`` and ``"val"``.
        class_of: synset → CIFAR-10 class of the requested images, which the file must agree with.

    Returns:
        The images.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
        ValueError: not such a file.
    """
    import numpy as np

    with parquet_errors("Tiny ImageNet", file):
        table = read_columns(file, PARQUET_COLUMNS)
        columns = (table[name].to_pylist() for name in PARQUET_COLUMNS[:-1])
        rows = list(zip(*columns, strict=True))
        chosen = []
        for row, (split, wnid, class_name, _) in enumerate(rows):
            if split not in ("train", "val"):
                raise ValueError(f"row {row}: split is {split!r}; accepted: train, val")
            if class_of.get(wnid, class_name) != class_name:
                raise ValueError(
                    f"row {row}: cifar10_class of {wnid} is {class_name!r}; accepted: "
                    f"{class_of[wnid]!r}"
                )
            if split in splits and wnid in class_of:
                chosen.append(row)
    cells = ImageColumn(file).read(np.asarray(chosen, dtype=np.int64))
    return [
        StoredImage(rows[row][0], rows[row][1], rows[row][3], cell, f"{file}, row {row}")
        for row, cell in zip(chosen, cells, strict=True)
    ]


def _read_original(
    path: Path, splits: tuple[str, ...], wnids: Collection[str]
) -> list[StoredImage]:
    """Read some synsets' images from the original files.

    Args:
        path: tiny-imagenet-200/ or tiny-imagenet-200.zip.
        splits: of ``"train"`` and ``"val"``.
        wnids: the synsets.

    Returns:
        The images.

    Raises:
        FileNotFoundError: the annotations are missing.
        ValueError: an archive that cannot be unpacked, or names of another format.
    """
    try:
        with _OriginalFiles(path) as files:
            train = _read_train(files, wnids) if "train" in splits else []
            return train + (_read_val(files, wnids) if "val" in splits else [])
    # What zipfile raises for archives that are cut short, damaged, encrypted or of a newer version.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(
            f"{path} cannot be unpacked: {error}. Download it again from {HOME}."
        ) from error


class _OriginalFiles:
    """The files of tiny-imagenet-200, in a folder or in its archive."""

    def __init__(self, path: Path) -> None:
        """List an archive's 120,000 members by folder, once."""
        self.path = path
        self._archive = None if path.is_dir() else zipfile.ZipFile(path)
        self._members: dict[str, list[str]] = {}
        for member in self._archive.namelist() if self._archive else ():
            folder, _, name = member.rpartition("/")
            self._members.setdefault(folder.removeprefix(f"{FOLDER}/"), []).append(name)

    def __enter__(self) -> _OriginalFiles:
        """Return the object itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the archive."""
        if self._archive is not None:
            self._archive.close()

    def names(self, folder: str) -> list[str]:
        """Return the names of a folder's JPEG files, sorted."""
        if self._archive is None:
            directory = self.path / folder
            names = [entry.name for entry in directory.iterdir()] if directory.is_dir() else []
        else:
            names = self._members.get(folder, [])
        return sorted(name for name in names if name.endswith(".JPEG") and name[0] != ".")

    def read(self, name: str) -> bytes:
        """Return a file's bytes; zipfile checks an archive's members against their CRC."""
        if self._archive is None:
            return (self.path / name).read_bytes()
        return self._archive.read(f"{FOLDER}/{name}")


def _read_train(files: _OriginalFiles, wnids: Collection[str]) -> list[StoredImage]:
    """Read train/WNID/images/WNID_0.JPEG and so on."""
    images = []
    for wnid in wnids:
        folder = f"train/{wnid}/images"
        for name in files.names(folder):
            location = f"{files.path / folder / name}"
            if not name.startswith(f"{wnid}_"):
                raise ValueError(
                    f"{location} is in the folder of {wnid}; accepted: files called "
                    f"{wnid}_*.JPEG. Download {ARCHIVE} again from {HOME}."
                )
            data = files.read(f"{folder}/{name}")
            images.append(StoredImage("train", wnid, name, data, location))
    return images


def _read_val(files: _OriginalFiles, wnids: Collection[str]) -> list[StoredImage]:
    """Read val/images/val_0.JPEG and so on, whose synsets are in val/val_annotations.txt."""
    names = set(files.names("val/images"))
    wnid_of = _read_annotations(files, names)
    images = []
    for name, wnid in wnid_of.items():
        if wnid in wnids:
            location = f"{files.path / 'val/images' / name}"
            data = files.read(f"val/images/{name}")
            images.append(StoredImage("val", wnid, name, data, location))
    return images


def _read_annotations(files: _OriginalFiles, names: set[str]) -> dict[str, str]:
    """Read val_annotations.txt: file name → synset, for exactly the images there are.

    Args:
        files: Tiny ImageNet's files.
        names: of the validation images.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a malformed line, or an image without a line or with two; the message names it.
    """
    table = files.path / ANNOTATIONS
    folder = files.path / "val/images"
    try:
        text = files.read(ANNOTATIONS)
    except (FileNotFoundError, KeyError) as error:
        raise FileNotFoundError(
            f"{table} is missing. Download {ARCHIVE} again from {HOME}."
        ) from error
    line_of: dict[str, int] = {}
    wnid_of: dict[str, str] = {}
    for line, row in enumerate(text.decode("utf-8", errors="replace").splitlines(), start=1):
        cells = row.split("\t")
        if len(cells) != 6 or not SYNSET.fullmatch(cells[1]):
            raise ValueError(
                f"{table}, line {line} is {row!r}; accepted: file, synset (n and eight digits) and "
                "four numbers, separated by tabs."
            )
        name, wnid = cells[:2]
        if name in line_of:
            raise ValueError(f"{table}, line {line}: {name} is already on line {line_of[name]}.")
        if name not in names:
            raise ValueError(f"{table}, line {line}: {folder} holds no {name}.")
        line_of[name], wnid_of[name] = line, wnid
    without_line = sorted(names - wnid_of.keys())
    if without_line:
        raise ValueError(f"{folder / without_line[0]} has no line in {table}.")
    return wnid_of
