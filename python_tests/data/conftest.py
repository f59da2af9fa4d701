"""Tiny CIFAR-10 files, with the loader expecting their sizes and checksums."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_cifar10 import NAMES, PER_BATCH, TinyCifar, md5

from sign_ext.data.datasets import cifar10


@pytest.fixture
def tiny(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> TinyCifar:
    """A tiny CIFAR-10, with the loader expecting its sizes."""
    monkeypatch.setattr(cifar10, "IMAGES_PER_BATCH", PER_BATCH)
    monkeypatch.setattr(cifar10, "TRAIN_IMAGES", 5 * PER_BATCH)
    monkeypatch.setattr(cifar10, "TEST_IMAGES", PER_BATCH)
    monkeypatch.setattr(cifar10, "VALIDATION_IMAGES", PER_BATCH)

    def pixels(count: int) -> np.ndarray:
        return rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)

    def labels(count: int) -> np.ndarray:
        return rng.permutation(np.arange(count) % 10)

    return TinyCifar(
        pixels(5 * PER_BATCH), labels(5 * PER_BATCH), pixels(PER_BATCH), labels(PER_BATCH)
    )


@pytest.fixture
def trust(monkeypatch: pytest.MonkeyPatch):
    """Replace the published checksums by those of some files."""

    def put(*paths: Path) -> None:
        for path in paths:
            if path.is_dir():
                for name in (*NAMES, "test_batch"):
                    digest = md5((path / name).read_bytes())
                    monkeypatch.setitem(cifar10.PYTHON_FILE_MD5, name, digest)
            else:
                monkeypatch.setitem(cifar10.ARCHIVE_MD5, path.name, md5(path.read_bytes()))

    return put
