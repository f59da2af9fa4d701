"""Random numbers as a function of (seed, epoch, purpose, rank); the caller's own stay untouched.

Nothing random is carried from one epoch to the next, so a resumed run needs no saved generator
state to draw what an uninterrupted one draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch

Purpose = Literal["order", "augment", "model"]
_STREAMS: dict[str, int] = {"order": 0, "augment": 1, "model": 2}


def derived_seed(seed: int, epoch: int, purpose: Purpose, rank: int = 0) -> int:
    """Give the seed of one epoch's batch order, augmentation, or dropout inside the model.

    Of several processes each has its own `rank`, and so its own dropout; the order and the
    augmentation are those of rank 0 in all. Rank 0 draws what a single process draws.
    """
    sequence = np.random.SeedSequence([seed, epoch, _STREAMS[purpose], *([rank] if rank else [])])
    return int(sequence.generate_state(1, np.uint32)[0])


def generator(seed: int, epoch: int, purpose: Purpose) -> torch.Generator:
    """Give a CPU generator for one epoch, so that every device sees the same draws."""
    return torch.Generator().manual_seed(derived_seed(seed, epoch, purpose))


@contextmanager
def forked_rng(device: torch.device) -> Iterator[None]:
    """Put PyTorch's global generators of the CPU and of `device` back when the block ends."""
    with torch.random.fork_rng(devices=[device.index] if device.type == "cuda" else []):
        yield


def seed_model(device: torch.device, seed: int) -> None:
    """Seed the global generators that dropout draws from, on the CPU and on `device` only."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)
