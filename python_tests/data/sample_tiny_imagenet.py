"""A tiny Tiny ImageNet: the original folder, its archive and Parquet."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

IMAGES = {"train": 3, "val": 2}
SYNSETS = {
    "automobile": ["n02814533", "n03100240", "n03670208", "n04285008"],
    "bird": ["n01855672", "n02002724", "n02056570", "n02058221"],
    "cat": ["n02123045", "n02123394", "n02124075", "n02125311"],
    "dog": ["n02085620", "n02094433", "n02099601", "n02099712", "n02106662", "n02113799"],
    "frog": ["n01641577", "n01644900"],
    "none of CIFAR-10's": ["n07747607"],
}
# The greyscale images, by their number within their synset.
GREY = {("val", "n02002724", 1), ("val", "n02123394", 0), ("train", "n01641577", 2)}
NUMBERS = {"automobile": 1, "bird": 2, "cat": 3, "dog": 5, "frog": 6}  # CIFAR-10's


@dataclass
class Picture:
    """One 64×64 JPEG."""

    split: str
    wnid: str
    class_name: str
    file: str
    grey: bool
    data: bytes

    def pixels(self) -> np.ndarray:
        """Decoded by Pillow alone: float64 (64, 64, 3)."""
        with Image.open(io.BytesIO(self.data)) as image:
            return np.asarray(image.convert("RGB"), dtype=np.float64)


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def pictures(rng: np.random.Generator) -> list[Picture]:
    """A few random images of each synset; validation images are numbered in random order."""
    found = []
    wnids = [(wnid, name) for name, each in SYNSETS.items() for wnid in each]
    places = iter(rng.permutation(len(wnids) * IMAGES["val"]))
    for wnid, name in wnids:
        for split, count in IMAGES.items():
            for index in range(count):
                grey = (split, wnid, index) in GREY
                shape = (64, 64) if grey else (64, 64, 3)
                file = f"{wnid}_{index}.JPEG" if split == "train" else f"val_{next(places)}.JPEG"
                data = jpeg(rng.integers(0, 256, shape, dtype=np.uint8))
                found.append(Picture(split, wnid, name, file, grey, data))
    return found


def write_folder(root: Path, found: list[Picture]) -> Path:
    base = root / "tiny-imagenet-200"
    (base / "val" / "images").mkdir(parents=True)
    lines = []
    for each in found:
        if each.split == "train":
            folder = base / "train" / each.wnid / "images"
            folder.mkdir(parents=True, exist_ok=True)
            (folder.parent / f"{each.wnid}_boxes.txt").write_text("not read")
        else:
            folder = base / "val" / "images"
            lines.append(f"{each.file}\t{each.wnid}\t0\t32\t44\t62\n")
        (folder / each.file).write_bytes(each.data)
    (base / "val" / "val_annotations.txt").write_text("".join(sorted(lines)))
    return base


def pack(base: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for file in sorted(base.rglob("*"), reverse=True):
            opened.write(file, file.relative_to(base.parent))
    return archive


def write_parquet(root: Path, found: list[Picture]) -> Path:
    rows = [each for each in found if each.class_name in NUMBERS]
    columns = {
        "split": [each.split for each in rows],
        "wnid": [each.wnid for each in rows],
        "cifar10_class": [each.class_name for each in rows],
        "file": [each.file for each in rows],
        "image": [each.data for each in rows],
    }
    file = root / "tiny_imagenet_20_classes.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), file, row_group_size=11)
    return file
