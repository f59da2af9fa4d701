"""Several augmentations one after the other."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from sign_ext.augment.base import Augment


@dataclass(frozen=True)
class Compose:
    """Apply augmentations from left to right, each to what the one before returned.

    Args:
        parts: the augmentations. One that mixes labels (mixup) must be the last, so that what
            varies single images sees single images.

    Raises:
        TypeError: a part is no augmentation.
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
            if i + 1 < len(self.parts) and mixes_labels(part):
                raise ValueError(
                    f"parts[{i}] is {type(part).__name__}, which mixes labels and can only be the "
                    "last part: move it to the end."
                )

    @property
    def mixes_labels(self) -> bool:
        """Whether labels come back as probabilities."""
        return any(mixes_labels(part) for part in self.parts)

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


def mixes_labels(augment: Augment) -> bool:
    """Whether an augmentation returns probabilities (N, classes) in place of labels."""
    return bool(getattr(augment, "mixes_labels", False))
