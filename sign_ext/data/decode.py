"""Decoding of compressed images to uint8 RGB pixels, several at a time."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Deeper than 8 bits a channel: Pillow would clip these to 255 without a word.
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def decode_rgb(
    source: Path | bytes, size: int | None, formats: tuple[str, ...] | None = None
) -> np.ndarray:
    """Decode one image to RGB, turned as its EXIF orientation says.

    Args:
        source: a file, or a file's bytes.
        size: resize to size × size pixels (bilinear, antialiased, the aspect ratio is not kept);
            None keeps the image as it is.
        formats: Pillow's names of the formats to accept; None for every format that it reads.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: more than 8 bits a channel.
        OSError: not a readable image.
    """
    from PIL import Image, ImageOps

    data: Any = io.BytesIO(source) if isinstance(source, bytes) else source
    with Image.open(data, formats=formats) as image:
        if image.mode in DEEP_MODES:
            raise ValueError(
                f"its pixels have mode {image.mode!r}, more than 8 bits a channel; save it as an "
                "8-bit image"
            )
        upright = ImageOps.exif_transpose(image)
        rgb = upright.convert("RGB")
        if size is not None and rgb.size != (size, size):
            rgb = rgb.resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(rgb)


def decode_all(
    count: int, size: int, decode: Callable[[int], np.ndarray], threads: int | None = None
) -> Tensor:
    """Decode many images of one size on a few threads.

    Args:
        count: number of images.
        size: their height and width in pixels.
        decode: position 0 … count − 1 → uint8 (size, size, 3).
        threads: worker threads; by default one a core, at most eight.

    Returns:
        uint8 (count, 3, size, size), in order; the first error of any image is raised.
    """
    pixels = np.empty((count, size, size, 3), dtype=np.uint8)
    workers = threads or min(8, os.cpu_count() or 1)
    span = max(1, min(256, -(-count // workers)))

    def fill(start: int) -> None:
        for position in range(start, min(start + span, count)):
            pixels[position] = decode(position)

    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(fill, range(0, count, span)):
            pass
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
