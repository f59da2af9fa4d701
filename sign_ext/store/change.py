"""How far SIGN moved a shard's images, looked at in a few of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

LOOKED_AT = 256  # images of a shard, evenly spaced: a mean over so many is good to a percent or so


@dataclass(frozen=True)
class Change:
    """|p*_K − p| in grey levels.

    Attributes:
        images: that were looked at.
        rms: root of the mean square over their variables.
        largest: of any variable.
    """

    images: int
    rms: float
    largest: float


def change_of(snapshots: Mapping[int, Tensor], originals: Tensor) -> dict[int, Change]:
    """Compare snapshots with what they were made from.

    NumPy adds up on one thread, so the numbers do not depend on how many there are.

    Args:
        snapshots: number of steps K → p*_K, (n, C, H, W) on the CPU.
        originals: uint8 (n, C, H, W).
    """
    if not len(originals):
        return {}
    where = np.unique(np.linspace(0, len(originals) - 1, LOOKED_AT).astype(np.int64))
    return {step: _change(images, originals, where) for step, images in snapshots.items()}


def _change(images: Tensor, originals: Tensor, where: np.ndarray) -> Change:
    """An image at a time: large ones in float64 would be more than their shard."""
    squares, largest = 0.0, 0.0
    for position in where:
        delta = images[position].float().numpy() - originals[position].numpy().astype(np.float64)
        squares += float(np.mean(delta**2))
        largest = max(largest, float(np.abs(delta).max()))
    rms = (squares / len(where)) ** 0.5
    return Change(len(where), float(f"{rms:.6g}"), float(f"{largest:.6g}"))


def together(changes: Iterable[Mapping[int, Change]]) -> dict[int, Change]:
    """The change of several shards.

    Args:
        changes: of each shard.
    """
    by_step: dict[int, list[Change]] = {}
    for each in changes:
        for step, change in each.items():
            by_step.setdefault(step, []).append(change)
    return {step: _joined(parts) for step, parts in sorted(by_step.items())}


def _joined(parts: list[Change]) -> Change:
    images = sum(part.images for part in parts)
    square = sum(part.images * part.rms**2 for part in parts) / images
    return Change(images, square**0.5, max(part.largest for part in parts))
