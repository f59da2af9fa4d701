"""A small network and a small data set for the stores' tests."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from store_parts import make_sign, make_source

from sign_ext import SignTransform
from sign_ext.data import ImageSource
from sign_ext.store import transform_to_store


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """All tests of this folder."""


@pytest.fixture
def sign() -> SignTransform:
    return make_sign()


@pytest.fixture
def source() -> ImageSource:
    return make_source()


@pytest.fixture
def store(sign: SignTransform, source: ImageSource, tmp_path: Path) -> Path:
    """A finished store of five shards."""
    folder = tmp_path / "store"
    transform_to_store(sign, source, folder, shard_size=5)
    return folder


@pytest.fixture
def unreadable() -> Callable[..., ImageSource]:
    """A source some of whose images cannot be read."""

    def make(*positions: int, count: int = 23) -> ImageSource:
        source = make_source(count)
        bad = np.array(positions)

        def read(start: int, stop: int) -> torch.Tensor:
            if len(hit := bad[(bad >= start) & (bad < stop)]):
                raise ValueError(f"photos/{hit[0]}.jpg cannot be read as an image.")
            return source.reader(start, stop)

        return dataclasses.replace(source, reader=read)

    return make


@pytest.fixture
def content_of() -> Callable[[Path], dict[str, str]]:
    """File name → SHA-256 of everything in a folder."""

    def read(folder: Path) -> dict[str, str]:
        return {
            each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in folder.iterdir()
        }

    return read
