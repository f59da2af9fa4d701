"""Resizing of images that are already tensors."""

from __future__ import annotations

import torch
from torch import Tensor

# Float copies are made of about this many values at once, so that memory stays bounded.
CHUNK = 2**24


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
    step = _images_at_once(images, size)
    for start in range(0, len(images), step):
        part = torch.nn.functional.interpolate(
            images[start : start + step].float(),
            size=(size, size),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        resized[start : start + step] = part.round().clamp(0, 255).to(torch.uint8)
    return resized


def average_areas(images: Tensor, size: int) -> Tensor:
    """Reduce to size × size pixels: each is the mean of the area that it covers.

    Pixels that a new one covers in part count by that part, so sizes need not divide each other.

    Args:
        images: uint8 (N, 3, H, W).
        size: new height and width in pixels, neither above the present ones.

    Returns:
        uint8 (N, 3, size, size), rounded to whole grey levels (halves to the even one).

    Raises:
        ValueError: a size that would enlarge.

    Example:
        >>> average_areas(torch.tensor([[[[0, 10], [20, 30]]]], dtype=torch.uint8), 1).item()
        15
    """
    height, width = images.shape[-2:]
    if not 1 <= size <= min(height, width):
        raise ValueError(
            f"size={size}; accepted: 1 to {min(height, width)}, as averages only reduce. "
            "Enlarge with resize_images."
        )
    down, right = _covered(height, size), _covered(width, size)
    reduced = torch.empty((*images.shape[:2], size, size), dtype=torch.uint8)
    step = _images_at_once(images, size)
    for start in range(0, len(images), step):
        part = down @ images[start : start + step].double() @ right.T
        reduced[start : start + step] = part.round().to(torch.uint8)
    return reduced


def _covered(old: int, new: int) -> Tensor:
    """Return float64 (new, old): the share of each new pixel that each old one fills."""
    step = old / new
    low = torch.arange(new, dtype=torch.float64).unsqueeze(1) * step
    pixel = torch.arange(old, dtype=torch.float64)
    overlap = torch.minimum(low + step, pixel + 1) - torch.maximum(low, pixel)
    return overlap.clamp(min=0) / step


def _images_at_once(images: Tensor, size: int) -> int:
    """Return how many images to work on together: what they are and what they become counts."""
    _, channels, height, width = images.shape
    return max(1, CHUNK // (channels * max(height * width, size * size)))
