"""Small data sets in every format that a path may have, with images of odd sizes."""

from __future__ import annotations

import importlib.util
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = {"ant": 5, "bee": 9, "cat": 14}


def pixels(rng: np.random.Generator) -> np.ndarray:
    """A random image of at least 32 by 32 pixels, and of another shape each time."""
    height, width = rng.integers(32, 48, 2)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: np.ndarray, ending: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, {"jpg": "JPEG", "ppm": "PPM"}.get(ending, ending.upper()))
    return buffer.getvalue()


def write_folder(root: Path, rng: np.random.Generator) -> Path:
    """28 images of three classes, some of them deeper in their folders."""
    for name, count in CLASSES.items():
        for index in range(count):
            ending = ("png", "bmp", "jpg")[index % 3]
            folder = root / "zoo" / name / ("deeper" if index == 3 else "")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{index:02d}.{ending}").write_bytes(encoded(pixels(rng), ending))
    return root / "zoo"


def write_split_folders(root: Path, rng: np.random.Generator) -> Path:
    """The same classes in train, val and test."""
    for part, count in (("train", 9), ("val", 3), ("test", 4)):
        for name in CLASSES:
            folder = root / "parts" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                (folder / f"{index}.png").write_bytes(encoded(pixels(rng)))
    return root / "parts"


def write_tar(file: Path, members: list[tuple[str, bytes]], mtime: int = 7) -> Path:
    """An uncompressed tar of named contents."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), mtime
            tar.addfile(member, io.BytesIO(content))
    return file


def samples(rng: np.random.Generator, labels: list[int], first: int = 0) -> list[tuple[str, bytes]]:
    """Members of samples with these labels: images of three formats, labels of both kinds."""
    members = []
    for index, label in enumerate(labels, start=first):
        ending = ("png", "jpg", "PPM")[index % 3]
        extension, content = "cls", f"{label}\n".encode()
        if index % 2:
            extension, content = "json", json.dumps({"caption": "é", "label": label}).encode()
        members.append((f"part{index % 2}.v1/{index:05d}.{extension}", content))
        image = encoded(pixels(rng), ending.lower())
        members.append((f"part{index % 2}.v1/{index:05d}.{ending}", image))
    return members


def write_tars(root: Path, rng: np.random.Generator) -> Path:
    """28 samples of three classes in three tars, which name the classes."""
    labels = rng.permutation(np.repeat(np.arange(3), list(CLASSES.values()))).tolist()
    for number, (start, stop) in enumerate(((0, 5), (5, 16), (16, 28))):
        members = samples(rng, labels[start:stop], start)
        if not number:
            members.insert(3, ("classes.txt", "\n".join(CLASSES).encode()))
        write_tar(root / "shards" / f"zoo-{number:03d}.tar", members)
    return root / "shards"


def write_one_tar(root: Path, rng: np.random.Generator) -> Path:
    labels = rng.permutation(np.repeat(np.arange(3), 7)).tolist()
    return write_tar(root / "one.tar", samples(rng, labels))


def write_split_tars(root: Path, rng: np.random.Generator) -> Path:
    """Tars for training and test, so that some training images are held out."""
    for part, first in (("train", 0), ("test", 100)):
        labels = rng.permutation(np.repeat(np.arange(3), 8)).tolist()
        write_tar(root / "shards" / part / "a.tar", samples(rng, labels, first))
    return root / "shards"


def saved(rng: np.random.Generator, labels: list[int]) -> Any:
    """A Hugging Face data set of random images with the classes ant, bee and cat."""
    from datasets import ClassLabel, Dataset, Features, Image, Value

    cells = [{"bytes": encoded(pixels(rng)), "path": f"{i}.png"} for i in range(len(labels))]
    features = {"n": Value("int32"), "image": Image(), "label": ClassLabel(names=list(CLASSES))}
    data = {"n": list(range(len(labels))), "image": cells, "label": labels}
    return Dataset.from_dict(data, features=Features(features))


def write_huggingface(root: Path, rng: np.random.Generator) -> Path:
    labels = rng.permutation(np.repeat(np.arange(3), list(CLASSES.values()))).tolist()
    saved(rng, labels).save_to_disk(str(root / "hf"))
    return root / "hf"


def write_huggingface_splits(root: Path, rng: np.random.Generator) -> Path:
    from datasets import DatasetDict

    labels = {"train": 21, "val": 6, "test": 9}
    parts = {name: saved(rng, [i % 3 for i in range(count)]) for name, count in labels.items()}
    DatasetDict(parts).save_to_disk(str(root / "hf"))
    return root / "hf"


MAKERS = {
    "folder": write_folder,
    "split folders": write_split_folders,
    "tars": write_tars,
    "one tar": write_one_tar,
    "split tars": write_split_tars,
}
# Only where the library is installed.
if importlib.util.find_spec("datasets"):
    MAKERS |= {"hf": write_huggingface, "hf splits": write_huggingface_splits}
