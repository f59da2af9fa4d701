"""How far SIGN moved a shard's images, measured on a sample of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

# Images of a shard, evenly spaced: enough for a mean within about one percent.
SAMPLED_IMAGES = 256


@dataclass(frozen=True)
class Change:
    """|p*_K − p| in grey levels.

    Attributes:
        images: number of images compared.
        rms: root mean square over their variables.
        largest: maximum over their variables.
    """

    images: int
    rms: float
    largest: float


def change_of(snapshots: Mapping[int, Tensor], originals: Tensor) -> dict[int, Change]:
    """Compare snapshots with the images they were made from.

    NumPy sums on one thread, so the numbers do not depend on the number of threads.

    Args:
        snapshots: number of steps K → p*_K, (n, C, H, W) on the CPU.
        originals: uint8 (n, C, H, W).
    """
    if not len(originals):
        return {}
    sample = np.unique(np.linspace(0, len(originals) - 1, SAMPLED_IMAGES).astype(np.int64))
    return {step: _change(images, originals, sample) for step, images in snapshots.items()}


def _change(images: Tensor, originals: Tensor, sample: np.ndarray) -> Change:
    # One image at a time: a float64 copy of large images would take more than their shard.
    squares, largest = 0.0, 0.0
    for position in sample:
        delta = images[position].float().numpy() - originals[position].numpy().astype(np.float64)
        squares += float(np.mean(delta**2))
        largest = max(largest, float(np.abs(delta).max()))
    rms = (squares / len(sample)) ** 0.5
    return Change(len(sample), float(f"{rms:.6g}"), float(f"{largest:.6g}"))


def merge_changes(changes: Iterable[Mapping[int, Change]]) -> dict[int, Change]:
    """Combine the changes of several shards.

    Args:
        changes: one mapping a shard.
    """
    by_step: dict[int, list[Change]] = {}
    for shard in changes:
        for step, change in shard.items():
            by_step.setdefault(step, []).append(change)
    return {step: _merged(parts) for step, parts in sorted(by_step.items())}


def _merged(parts: list[Change]) -> Change:
    images = sum(part.images for part in parts)
    square = sum(part.images * part.rms**2 for part in parts) / images
    return Change(images, square**0.5, max(part.largest for part in parts))
