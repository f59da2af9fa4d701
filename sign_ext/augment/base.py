"""The interface of an augmentation, and the augmentations that consist of none or of several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Generator, Tensor


@runtime_checkable
class Augment(Protocol):
    """A random change of a training batch, drawn anew for each batch.

    An implementation is a frozen dataclass whose fields are its options, so that they can be
    recorded with a run, and a resumed run can check that they are the same.
    """

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Change a batch.

        Args:
            images: float32 (N, C, H, W), pixel units 0–255, on the training device; never modified.
            labels: int64 (N,) on the same device.
            generator: the only source of randomness; it may be on the CPU or on the device.

        Returns:
            images of the same shape and dtype, and labels: int64 (N,), or float32 (N, classes)
            with the probability of each class if the augmentation mixes labels. Or several
            versions of the batch, one after the other, whose losses are added (AdvProp).
        """
        ...


@dataclass(frozen=True)
class NoAugment:
    """Leaves every batch unchanged.

    Example:
        >>> import torch
        >>> images, labels = torch.rand(2, 3, 5, 7) * 255, torch.tensor([0, 1])
        >>> NoAugment()(images, labels, torch.Generator())[0] is images
        True
    """

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the batch itself and draw nothing from the generator."""
        return images, labels


@dataclass(frozen=True)
class Compose:
    """Apply augmentations from left to right, each to the output of the one before.

    Args:
        parts: the augmentations. One that mixes labels (mixup) must be last, so that the others
            see single images.

    Raises:
        TypeError: a part is not an augmentation.
        ValueError: a part before the last mixes labels.

    Example:
        >>> import torch
        >>> from sign_ext.augment import Classical, Mixup
        >>> both = Compose((Classical(), Mixup(num_classes=10)))
        >>> images, labels = torch.rand(4, 3, 8, 8) * 255, torch.arange(4)
        >>> both(images, labels, torch.Generator().manual_seed(0))[1].shape
        torch.Size([4, 10])
    """

    parts: tuple[Augment, ...]

    def __post_init__(self) -> None:
        """Check the parts and their order."""
        object.__setattr__(self, "parts", tuple(self.parts))
        for i, part in enumerate(self.parts):
            if isinstance(part, type) or not callable(part):
                raise TypeError(
                    f"parts[{i}] must be an augmentation, e.g. Classical(); got {part!r}."
                )
            if i + 1 < len(self.parts) and _mixes_labels(part):
                raise ValueError(
                    f"parts[{i}] is {type(part).__name__}, which mixes labels and must be the last "
                    "part: move it to the end."
                )

    @property
    def mixes_labels(self) -> bool:
        """Whether labels are returned as probabilities."""
        return any(_mixes_labels(part) for part in self.parts)

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Apply all parts.

        Args:
            images: float32 (N, C, H, W), pixel units 0–255; never modified.
            labels: int64 (N,).
            generator: each part draws from it in turn.

        Returns:
            What the last part returns; without parts the batch itself.
        """
        for part in self.parts:
            images, labels = part(images, labels, generator)
        return images, labels


def _mixes_labels(augment: Augment) -> bool:
    """Return whether an augmentation returns probabilities (N, classes) instead of labels."""
    return bool(getattr(augment, "mixes_labels", False))
