"""mixup: each image and its label are blended with those of its neighbour in the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from sign_ext.augment.field import seeded


@dataclass(frozen=True)
class Mixup:
    """Blend each image and label with another of the batch (the paper's reference [33]).

    λ ~ Beta(α, α), one a batch; image i becomes λ·p_i + (1 − λ)·p_{i−1}, and so does its one-hot
    label. Batches are shuffled each epoch, so the neighbour is a random partner. This is
    torchvision's `v2.MixUp`, with its randomness taken from the given generator.

    Args:
        num_classes: length of the one-hot labels.
        alpha: α of the Beta distribution, above 0; 1 makes λ uniform. The paper states none.

    Raises:
        ValueError: a value out of range.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> images, labels = torch.rand(4, 3, 8, 8) * 255, torch.arange(4)
        >>> mixed, targets = Mixup(num_classes=10)(images, labels, generator)
        >>> mixed.shape, targets.shape
        (torch.Size([4, 3, 8, 8]), torch.Size([4, 10]))
    """

    num_classes: int
    alpha: float = 1.0

    mixes_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check both values, so that a wrong one fails before training starts."""
        is_integer = isinstance(self.num_classes, int) and not isinstance(self.num_classes, bool)
        if not is_integer or self.num_classes < 1:
            raise ValueError(
                f"num_classes must be an integer of at least 1; got {self.num_classes!r}. "
                "Give the number of the data set's classes."
            )
        is_number = isinstance(self.alpha, int | float) and not isinstance(self.alpha, bool)
        if not is_number or not math.isfinite(self.alpha) or self.alpha <= 0:
            raise ValueError(
                f"alpha must be a finite number above 0; got {self.alpha!r}. 1 makes λ uniform, "
                "smaller values blend less; to blend nothing, leave mixup out."
            )

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the batch blended with itself, rolled by one image.

        Args:
            images: float32 (N, C, H, W), pixel units 0–255; never modified.
            labels: int64 (N,), or float32 (N, num_classes).
            generator: one number is drawn from it. torch's global generators are not changed.

        Returns:
            A new float32 (N, C, H, W) tensor, and float32 (N, num_classes) targets.
        """
        from torchvision.transforms import v2

        mix = v2.MixUp(alpha=float(self.alpha), num_classes=self.num_classes)
        mixed, targets = seeded(generator, lambda: mix(images, labels))
        return mixed, targets
