"""The interface of an augmentation: a batch on its device in, a batch of the same shape out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Generator, Tensor


@runtime_checkable
class Augment(Protocol):
    """A random change of one training batch, drawn anew each time.

    An implementation is a frozen dataclass: its fields are its options, so a run's state file can
    hold them and a resumed run can tell whether they changed.
    """

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Change a batch.

        Args:
            images: float32 (N, C, H, W), pixel units 0–255, on the training device; never modified.
            labels: int64 (N,) on the same device.
            generator: the only source of randomness; it may live on the CPU or on the device.

        Returns:
            images of the same shape and dtype, and labels: int64 (N,), or float32 (N, classes)
            with the probability of each class where a method mixes them.
        """
        ...


@dataclass(frozen=True)
class NoAugment:
    """Leaves every batch as it is.

    Example:
        >>> import torch
        >>> images, labels = torch.rand(2, 3, 5, 7) * 255, torch.tensor([0, 1])
        >>> NoAugment()(images, labels, torch.Generator())[0] is images
        True
    """

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the batch itself, drawing nothing from the generator."""
        return images, labels
