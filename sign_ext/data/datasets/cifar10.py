"""CIFAR-10 from its original files or from Parquet, with a validation set held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sign_ext.data.cifar10_files import PARQUET_FILES, find_format
from sign_ext.data.cifar10_original import Arrays, read_binary, read_python
from sign_ext.data.cifar10_parquet import read_parquet
from sign_ext.data.lazy import Pool, Unread
from sign_ext.data.splits import SPLIT_SEED, Wanted, stratified_choice

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


def open_cifar10(root: Path, wanted: Wanted) -> Unread:
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
    return Unread("cifar10", note, CLASS_NAMES, parts, wanted)


def _pool(batches: list[Arrays]) -> Pool:
    """Join batches that are in memory already."""
    images = np.concatenate([pixels for pixels, _ in batches])
    labels = np.concatenate([each for _, each in batches])
    return Pool(
        labels,
        lambda where: torch.from_numpy(images[where]),
        images.shape[-1],
        lambda where: (images[position].tobytes() for position in where),
        resident_bytes=images.nbytes,
    )
