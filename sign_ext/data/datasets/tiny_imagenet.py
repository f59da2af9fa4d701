"""Tiny ImageNet's images of five of CIFAR-10's classes: Table 3's out-of-distribution test."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from sign_ext.data.datasets.cifar10 import CLASS_NAMES
from sign_ext.data.datasets.root import PUT_IT
from sign_ext.data.decode import decode_exact, is_grey
from sign_ext.data.formats.parquet import Cells, read_columns, usable_as
from sign_ext.data.image_set import ImageSet
from sign_ext.data.resize import average_areas, resize_images

# Tiny ImageNet on disk: the extracted folder, the original archive, or one Parquet file.


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
# The paper gives its counts and no synsets. Without greyscale images, only validation images of
# these classes add up to them: sports car; goose, stork, albatross; tabby; all dogs; all frogs.
# The counts alone would also allow the convertible, the king penguin, and the Egyptian cat or the
# cougar, each in the place of its like.
PAPER_SYNSETS = {
    "automobile": ("n04285008",),
    "bird": ("n01855672", "n02002724", "n02058221"),
    "cat": ("n02123045",),
    "dog": CLASS_SYNSETS["dog"],
    "frog": CLASS_SYNSETS["frog"],
}
PAPER_COUNTS = {"automobile": 49, "bird": 146, "cat": 50, "dog": 298, "frog": 100}
CHOICES = {"paper": (("val",), PAPER_SYNSETS), "all": (("train", "val"), CLASS_SYNSETS)}

# Of each synset, greyscale ones included.
IMAGES = {"train": 500, "val": 50}
ORIGINAL_SIZE = 64
DEFAULT_SIZE = 32


def load_tiny_imagenet(
    root: Path, *, synsets: str = "paper", image_size: int | None = None
) -> ImageSet:
    """Read the images of Tiny ImageNet that show one of CIFAR-10's classes (Table 3).

    Greyscale images are left out, as the paper's counts show that they were. Images are reduced
    by averaging areas (four pixels become one at 32×32), or enlarged bilinearly.

    Args:
        root: folder with one of the accepted forms of the data (docs/data.md).
        synsets: ``"paper"`` for the 643 images of the paper's Table 3, as far as they can be
            reconstructed; ``"all"`` for the training and validation images of all 20 synsets.
        image_size: height and width in pixels; None for CIFAR-10's 32.

    Returns:
        Images with CIFAR-10's ten class names and labels, in the order of class, synset and name;
        five of the classes have none.

    Raises:
        FileNotFoundError: the files are not there; the message lists those accepted.
        ValueError: a file that is damaged or not the published one.
    """
    splits, chosen = CHOICES[synsets]
    classes = {wnid: name for name, wnids in chosen.items() for wnid in wnids}
    form, path = find_format(root)
    if form == "original":
        found = read_original(path, splits, classes)
    else:
        found = read_parquet(path, splits, classes)
    counts = Counter((each.split, each.wnid) for each in found)
    for split in splits:
        for wnid in classes:
            if counts[split, wnid] != IMAGES[split]:
                raise ValueError(
                    f"{path} has {counts[split, wnid]} images of {wnid} in {split}; accepted: "
                    f"{IMAGES[split]}. It is incomplete or changed; get it from {HOME}."
                )
    found = [each for each in found if not is_grey(each.data, each.where, "JPEG")]
    found.sort(key=lambda each: (CLASS_NAMES.index(classes[each.wnid]), each.wnid, each.file))
    if synsets == "paper":
        _check_paper_counts(Counter(classes[each.wnid] for each in found), path)
    images = decode_exact(
        [each.data for each in found],
        [each.where for each in found],
        ORIGINAL_SIZE,
        "JPEG",
        # One thread: images this small spend their time under Python's lock, so more gain nothing.
        threads=1,
    )
    size = image_size or DEFAULT_SIZE
    resize = average_areas if size <= ORIGINAL_SIZE else resize_images
    labels = [CLASS_NAMES.index(classes[each.wnid]) for each in found]
    name = f"tiny_imagenet/{synsets}"
    return ImageSet(resize(images, size), torch.tensor(labels), CLASS_NAMES, name)


def _check_paper_counts(counts: Counter[str], path: Path) -> None:
    """Raise ValueError unless there are as many colour images of each class as in the paper."""
    if dict(counts) != PAPER_COUNTS:
        raise ValueError(
            f"{path} has {dict(counts)} colour images; accepted: {PAPER_COUNTS}, the paper's. Its "
            f"images were changed; get them from {HOME}."
        )
