"""How far SIGN moved a shard's images, measured on a sample of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from torch import Tensor

from sign_ext.change import Change, combine, measure_change

SAMPLED_IMAGES = 256  # of a shard, evenly spaced: a mean over so many is within about a percent


def change_of(snapshots: Mapping[int, Tensor], originals: Tensor) -> dict[int, Change]:
    """Compare snapshots with the images they were made from.

    Args:
        snapshots: number of steps K → p*_K, (n, C, H, W) on the CPU.
        originals: uint8 (n, C, H, W).

    Returns:
        K → the change, to the six digits that a record holds; {} without images.
    """
    if not len(originals):
        return {}
    sample = np.unique(np.linspace(0, len(originals) - 1, SAMPLED_IMAGES).astype(np.int64)).tolist()
    found = {}
    for step, images in snapshots.items():
        change = measure_change(images, originals, sample)
        rms, largest = (float(f"{value:.6g}") for value in (change.rms, change.largest))
        found[step] = Change(change.images, rms, largest)
    return found


def merge_changes(changes: Iterable[Mapping[int, Change]]) -> dict[int, Change]:
    """Combine the changes of several shards, by number of steps.

    Args:
        changes: one mapping per shard.
    """
    by_step: dict[int, list[Change]] = {}
    for shard in changes:
        for step, change in shard.items():
            by_step.setdefault(step, []).append(change)
    return {step: combine(parts) for step, parts in sorted(by_step.items())}
