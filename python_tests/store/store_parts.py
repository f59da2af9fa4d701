"""The network, the data set and the damage of the stores' tests, and of processes they start."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sign_ext import SignTransform
from sign_ext.data import ImageSource

SHAPE = (3, 9, 7)
SHARD = "shard-000002.safetensors"


def make_source(count: int = 23, seed: int = 5) -> ImageSource:
    """Random images whose pixels are a function of their position."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    labels = (np.arange(count) * 7) % 3

    def read(start: int, stop: int) -> Tensor:
        return torch.from_numpy(pixels[start:stop].copy())

    def name(start: int, stop: int) -> list[str]:
        return [f"photos/ü{position}.png" for position in range(start, stop)]

    fingerprint = hashlib.sha256(pixels.tobytes()).hexdigest()
    note = f"{count} random images"
    return ImageSource(
        "random/train", labels, ("a", "b", "c"), SHAPE, fingerprint, note, 0, read, name
    )


def make_net(seed: int = 3) -> nn.Module:
    """A convolutional network with a classifier."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(96, 3)).eval()


def make_sign(**options) -> SignTransform:
    """K = 3 with two snapshots, in batches of four."""
    settings = {"steps": 3, "snapshots": (1, 3), "step_size": 2.0, "batch_size": 4}
    return SignTransform(make_net(), **{**settings, **options})


def expected(source: ImageSource, **options) -> dict[int, Tensor]:
    """What SignTransform makes of all images at once."""
    return make_sign(**options).transform(source.read(0, len(source)).float())


def flip(path: Path, where: int) -> None:
    """Flip a bit of a file."""
    content = bytearray(path.read_bytes())
    content[where] ^= 0x10
    path.write_bytes(content)
