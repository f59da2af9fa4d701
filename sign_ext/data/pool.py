"""Images that lie somewhere, described without reading their pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Pool:
    """Images whose labels are known and whose pixels are read on demand.

    Args:
        labels: int64 (N,).
        read: positions (n,) → uint8 tensor (n, 3, size, size); several threads may call it.
        size: height and width of what ``read`` returns, in pixels.
        identities: positions (n,) → n bytes strings that tell each image from another without
            decoding it: its encoded bytes, or what is known of them, such as their number.
        keys: positions (n,) → what the source calls each image; None where it has no names.
        resident_bytes: what the pool holds, or comes to hold, in memory besides labels and names.
    """

    labels: np.ndarray
    read: Callable[[np.ndarray], Tensor]
    size: int
    identities: Callable[[np.ndarray], Iterable[bytes]]
    keys: Callable[[np.ndarray], list[str]] | None = None
    resident_bytes: int = 0


# For training, validation and test in this order, a pool and increasing positions in it.
Parts = tuple[tuple[Pool, np.ndarray], tuple[Pool, np.ndarray], tuple[Pool, np.ndarray]]
