"""Resizing of uint8 images that are already tensors."""

from __future__ import annotations

import torch
from torch import Tensor

# Values per chunk: only one chunk at a time is converted to floats, which bounds the memory.
CHUNK = 2**24


def resize_images(images: Tensor, size: int | None) -> Tensor:
    """Resize to size × size pixels, bilinear and antialiased, rounded to integers.

    Args:
        images: uint8 (N, 3, H, W).
        size: new height and width in pixels; None, or the current size, returns the images
            themselves.

    Returns:
        uint8 (N, 3, size, size).

    Example:
        >>> resize_images(torch.full((1, 3, 8, 8), 7, dtype=torch.uint8), 32).unique().tolist()
        [7]
    """
    if size is None or tuple(images.shape[-2:]) == (size, size):
        return images
    resized = torch.empty((*images.shape[:2], size, size), dtype=torch.uint8)
    step = _chunk_length(images, size)
    for start in range(0, len(images), step):
        chunk = torch.nn.functional.interpolate(
            images[start : start + step].float(),
            size=(size, size),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        resized[start : start + step] = chunk.round().clamp(0, 255).to(torch.uint8)
    return resized


def average_areas(images: Tensor, size: int) -> Tensor:
    """Reduce to size × size pixels, each the mean of the area that it covers.

    A pixel that is covered in part is weighted by that part, so the sizes need not divide each
    other.

    Args:
        images: uint8 (N, 3, H, W).
        size: new height and width in pixels, neither above the current ones.

    Returns:
        uint8 (N, 3, size, size), rounded to integers (halves to even).

    Raises:
        ValueError: a size that would enlarge.

    Example:
        >>> average_areas(torch.tensor([[[[0, 10], [20, 30]]]], dtype=torch.uint8), 1).item()
        15
    """
    height, width = images.shape[-2:]
    if not 1 <= size <= min(height, width):
        raise ValueError(
            f"size={size}; accepted: 1 to {min(height, width)}, since averaging only reduces. "
            "Enlarge with resize_images."
        )
    down, right = _area_weights(height, size), _area_weights(width, size)
    reduced = torch.empty((*images.shape[:2], size, size), dtype=torch.uint8)
    step = _chunk_length(images, size)
    for start in range(0, len(images), step):
        chunk = down @ images[start : start + step].double() @ right.T
        reduced[start : start + step] = chunk.round().to(torch.uint8)
    return reduced


def _area_weights(old: int, new: int) -> Tensor:
    """Return float64 (new, old): the share of each new pixel that each old pixel fills."""
    step = old / new
    low = torch.arange(new, dtype=torch.float64).unsqueeze(1) * step
    old_low = torch.arange(old, dtype=torch.float64)
    overlap = torch.minimum(low + step, old_low + 1) - torch.maximum(low, old_low)
    return overlap.clamp(min=0) / step


def _chunk_length(images: Tensor, size: int) -> int:
    """Return how many images fit in a chunk, both before and after resizing."""
    _, channels, height, width = images.shape
    return max(1, CHUNK // (channels * max(height * width, size * size)))
