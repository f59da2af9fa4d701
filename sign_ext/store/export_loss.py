"""What is lost when p*_K becomes an image of 8 bits: values outside 0–255, and fractions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """Counts over the values of images, which add up.

    Attributes:
        values: how many there are.
        below: how many are below 0, and become 0.
        above: how many are above 255, and become 255.
        clipping: Σ (x − clip(x))².
        rounding: Σ (clip(x) − round(clip(x)))².
    """

    values: int = 0
    below: int = 0
    above: int = 0
    clipping: float = 0.0
    rounding: float = 0.0

    @property
    def clipping_rms(self) -> float:
        """Grey levels, over all values."""
        return (self.clipping / max(1, self.values)) ** 0.5

    @property
    def rounding_rms(self) -> float:
        """Grey levels, over all values."""
        return (self.rounding / max(1, self.values)) ** 0.5

    @property
    def clipped_share(self) -> float:
        """The share of values outside 0–255, 0–1."""
        return (self.below + self.above) / max(1, self.values)


def to_bytes(images: Tensor) -> tuple[np.ndarray, Loss]:
    """Clip to 0–255 and round to the nearest whole number, halves to the even one.

    Args:
        images: floating (N, C, H, W), grey levels.

    Returns:
        uint8 (N, H, W, C), and what was lost.

    Example:
        >>> pixels, loss = to_bytes(torch.tensor([-3.0, 0.25, 255.0, 257.0]).view(1, 1, 2, 2))
        >>> pixels.ravel().tolist(), loss.below, loss.above, loss.clipping, loss.rounding
        ([0, 0, 255, 255], 1, 1, 13.0, 0.0625)
    """
    exact = images.to(torch.float64)
    clipped = exact.clamp(0, 255)
    whole = clipped.round()
    loss = Loss(
        exact.numel(),
        int((exact < 0).sum()),
        int((exact > 255).sum()),
        float((exact - clipped).square().sum()),
        float((clipped - whole).square().sum()),
    )
    pixels: np.ndarray = whole.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return pixels, loss


def total(losses: Iterable[Loss]) -> Loss:
    """Add up the losses of several sets of images."""
    every = list(losses)
    return Loss(
        sum(each.values for each in every),
        sum(each.below for each in every),
        sum(each.above for each in every),
        sum(each.clipping for each in every),
        sum(each.rounding for each in every),
    )
