"""Resizing of images that are already tensors."""

from __future__ import annotations

import torch
from torch import Tensor

# Float copies are made for this many images at once, so that memory stays bounded.
CHUNK = 1024


def resize_images(images: Tensor, size: int | None) -> Tensor:
    """Resize to size × size pixels, bilinear and antialiased, rounded to whole grey levels.

    Args:
        images: uint8 (N, 3, H, W).
        size: new height and width in pixels; None, or the present size, returns the images
            as given.

    Returns:
        uint8 (N, 3, size, size).

    Example:
        >>> resize_images(torch.full((1, 3, 8, 8), 7, dtype=torch.uint8), 32).unique().tolist()
        [7]
    """
    if size is None or tuple(images.shape[-2:]) == (size, size):
        return images
    resized = torch.empty((*images.shape[:2], size, size), dtype=torch.uint8)
    for start in range(0, len(images), CHUNK):
        part = torch.nn.functional.interpolate(
            images[start : start + CHUNK].float(),
            size=(size, size),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        resized[start : start + CHUNK] = part.round().clamp(0, 255).to(torch.uint8)
    return resized
