"""Distillation: a teacher's answers are mixed into the labels, and the images stay as they are."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from sign_ext.eval_state import computing


class Distilled:
    """Replace labels by their mean with a teacher's probabilities for the same images.

    With cross-entropy as objective this is the loss of Hinton, Vinyals and Dean ("Distilling the
    knowledge in a neural network", 2015): (1 − w) H(y, q) + w H(softmax(t / T), q), without their
    temperature for the student. Of the augmentations of a `Compose` it is the last, so that the
    teacher sees the images that the student sees.

    Args:
        teacher: float32 images (N, C, H, W), 0–255 → logits (N, classes); it is computed in
            evaluation mode and left as it is.
        num_classes: of the labels.
        weight: w, the teacher's share of the targets, in (0, 1].
        temperature: T, above 0.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> teacher = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
        >>> images, labels = torch.rand(5, 3, 2, 2) * 255, torch.arange(5) % 4
        >>> same, targets = Distilled(teacher, 4)(images, labels, Generator())
        >>> same is images, targets.shape
        (True, torch.Size([5, 4]))
    """

    mixes_labels: ClassVar[bool] = True

    def __init__(
        self,
        teacher: nn.Module,
        num_classes: int,
        *,
        weight: float = 0.5,
        temperature: float = 1.0,
    ) -> None:
        """Check the numbers."""
        if not 0 < weight <= 1:
            raise ValueError(f"weight={weight!r}; accepted: above 0, at most 1.")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature={temperature!r}; accepted: a finite number above 0.")
        self.teacher = teacher
        self.num_classes = num_classes
        self.weight = float(weight)
        self.temperature = float(temperature)

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the images themselves, and float32 (N, num_classes) targets.

        Args:
            images: float32 (N, C, H, W), 0–255.
            labels: int64 (N,).
            generator: nothing is drawn from it.
        """
        with computing(self.teacher), torch.no_grad():
            taught = F.softmax(self.teacher(images).float() / self.temperature, dim=1)
        own = F.one_hot(labels, self.num_classes).to(taught.dtype)
        return images, torch.lerp(own, taught, self.weight)

    def describe(self) -> dict[str, Any]:
        """The options, as plain data, for records of runs."""
        return {
            "num_classes": self.num_classes,
            "weight": self.weight,
            "temperature": self.temperature,
        }
