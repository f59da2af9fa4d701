"""scikit-learn's bundled handwritten digits: real images that need no download."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sign_ext.data.lazy import Pool, Unread
from sign_ext.data.splits import Wanted, three_way_split

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DEFAULT_SIZE = 32


def open_digits(wanted: Wanted) -> Unread:
    """Find the 1,797 digits as RGB images in 0–255, split 70/15/15 by class.

    Args:
        wanted: subset sizes and image size (default 32).

    Returns:
        The splits, unread; ink levels 0–16 of the 8×8 originals are scaled to 0–255 and resized.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
        ValueError: a subset larger than its part.
    """
    pool = digits_pool(wanted.image_size)
    train, validation, test = three_way_split(pool.labels)
    note = f"scikit-learn's handwritten digits ({len(pool.labels):,} images of 8×8, resized)"
    parts = ((pool, train), (pool, validation), (pool, test))
    return Unread("digits", note, CLASS_NAMES, parts, wanted)


def digits_pool(image_size: int | None) -> Pool:
    """Read all digits; they are enlarged when they are asked for.

    Args:
        image_size: height and width in pixels; None for 32.

    Returns:
        The 1,797 images in scikit-learn's order, labelled 0 to 9.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    from sklearn.datasets import load_digits

    bundled = load_digits()
    labels = np.asarray(bundled.target, dtype=np.int64)
    # Resized before rounding to whole grey levels, so the smooth strokes keep their precision.
    ink = torch.from_numpy(np.asarray(bundled.images, dtype=np.float32)) * (255.0 / 16.0)
    size = image_size or DEFAULT_SIZE

    def read(where: np.ndarray) -> Tensor:
        grey = torch.nn.functional.interpolate(
            ink[torch.from_numpy(where)].unsqueeze(1),
            size=(size, size),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        return grey.round().clamp(0, 255).to(torch.uint8).repeat(1, 3, 1, 1)

    def identities(where: np.ndarray) -> list[bytes]:
        return [ink[position].numpy().tobytes() for position in where]

    return Pool(labels, read, size, identities, resident_bytes=ink.nbytes)
