"""A tiny ISIC-2017 in the challenge's format and as Parquet, written from their descriptions."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

OFFICIAL = {"train": "Training", "validation": "Validation", "test": "Test_v2"}
# Images, melanomas and seborrheic keratoses.
COUNTS = {"train": (20, 5, 3), "validation": (5, 1, 2), "test": (10, 3, 1)}


@dataclass
class Lesion:
    """One photograph of a single colour, which identifies it."""

    image_id: str
    melanoma: int
    keratosis: int
    colour: tuple[int, int, int]

    def jpeg(self, size: tuple[int, int]) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", size, self.colour).save(buffer, "JPEG", quality=95)
        return buffer.getvalue()


@dataclass
class TinyIsic:
    """The three splits, each in the order of its image ids."""

    parts: dict[str, list[Lesion]]

    @staticmethod
    def random(rng: np.random.Generator) -> TinyIsic:
        total = sum(images for images, _, _ in COUNTS.values())
        numbers = iter(rng.choice(10_000_000, total, replace=False))
        # Grey levels 6 apart: JPEG changes a plain colour by one or two.
        levels = iter(rng.permutation(total) * 6 + 10)
        parts = {}
        for part, (images, melanomas, keratoses) in COUNTS.items():
            kinds = [(1, 0)] * melanomas + [(0, 1)] * keratoses
            kinds += [(0, 0)] * (images - len(kinds))
            lesions = [
                Lesion(f"ISIC_{next(numbers):07d}", *kinds[kind], (int(next(levels)), 120, 60))
                for kind in rng.permutation(images)
            ]
            parts[part] = sorted(lesions, key=lambda lesion: lesion.image_id)
        return TinyIsic(parts)

    def write_official(self, root: Path) -> Path:
        for part, official in OFFICIAL.items():
            folder = root / f"ISIC-2017_{official}_Data"
            folder.mkdir(parents=True)
            lines = ["image_id,melanoma,seborrheic_keratosis"]
            for index, lesion in enumerate(self.parts[part]):
                size = (31 + 8 * index, 90 - 3 * index)
                (folder / f"{lesion.image_id}.jpg").write_bytes(lesion.jpeg(size))
                (folder / f"{lesion.image_id}_superpixels.png").write_bytes(b"not read")
                lines.append(f"{lesion.image_id},{lesion.melanoma}.0,{lesion.keratosis}.0")
            (folder / f"ISIC-2017_{official}_Data_metadata.csv").write_text("not read")
            self.table(root, part).write_text("\r\n".join(lines) + "\r\n", newline="")
        return root

    def write_parquet(self, root: Path, size: tuple[int, int] = (256, 256)) -> Path:
        rows = [(part, lesion) for part, lesions in self.parts.items() for lesion in lesions]
        columns = {
            "split": [part for part, _ in rows],
            "image_id": [lesion.image_id for _, lesion in rows],
            "melanoma": np.array([lesion.melanoma for _, lesion in rows], np.uint8),
            "seborrheic_keratosis": np.array([lesion.keratosis for _, lesion in rows], np.uint8),
            "image": [lesion.jpeg(size) for _, lesion in rows],
        }
        file = root / "isic2017_256.parquet"
        pyarrow.parquet.write_table(pyarrow.table(columns), file, row_group_size=7)
        return file

    def table(self, root: Path, part: str) -> Path:
        return root / f"ISIC-2017_{OFFICIAL[part]}_Part3_GroundTruth.csv"

    def image(self, root: Path, part: str, index: int) -> Path:
        name = f"{self.parts[part][index].image_id}.jpg"
        return root / f"ISIC-2017_{OFFICIAL[part]}_Data" / name


def change_column(file: Path, name: str, values: list[object] | None) -> None:
    """Replace a column of a Parquet file; None removes it."""
    table = pyarrow.parquet.read_table(file)
    where = table.column_names.index(name)
    table = table.remove_column(where)
    if values is not None:
        table = table.add_column(where, name, pyarrow.array(values))
    pyarrow.parquet.write_table(table, file, row_group_size=7)


def column(file: Path, name: str) -> list[object]:
    return pyarrow.parquet.read_table(file)[name].to_pylist()
