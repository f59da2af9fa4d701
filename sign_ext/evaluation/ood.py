"""Accuracy on a test set in which only some of the classes occur (Table 3)."""

from __future__ import annotations

import statistics
from typing import NamedTuple

from torch import Tensor

from sign_ext.evaluation.accuracy import class_accuracy


class PresentClassAccuracy(NamedTuple):
    """Accuracies (0–1) where some classes have no test images.

    Attributes:
        overall: over all images. This is Table 3's "Mean (643)": the paper's class accuracies times
            its counts give 335, 306 and 353 right images of 643, and so its 0.5210, 0.4759 and
            0.5490; the means of its five class accuracies would be 0.6406, 0.5979 and 0.6571.
        per_class: label → accuracy, of the classes that have images.
    """

    overall: float
    per_class: dict[int, float]

    @property
    def class_mean(self) -> float:
        """The mean of `per_class`, each class counting the same however many images it has."""
        return statistics.fmean(self.per_class.values())


def present_class_accuracy(
    logits: Tensor, labels: Tensor, num_classes: int
) -> PresentClassAccuracy:
    """Compute accuracies on a test set that holds some of a classifier's classes only.

    A prediction may be any of the classes: one that the test set lacks is simply wrong.

    Args:
        logits: float tensor (N, num_classes).
        labels: int64 (N,).
        num_classes: number of classes the classifier knows.

    Returns:
        The accuracy over images and by class present, to be unpacked as a pair; the mean over
        classes is its property `class_mean`.

    Raises:
        ValueError: no images, logits that are not finite, or shapes that do not fit.

    Example:
        >>> import torch
        >>> found = present_class_accuracy(torch.eye(4)[[1, 0, 3]], torch.tensor([1, 1, 3]), 4)
        >>> found.overall, found.per_class, found.class_mean
        (0.6666666666666666, {1: 0.5, 3: 1.0}, 0.75)
    """
    overall, per_class = class_accuracy(logits, labels, num_classes)
    return PresentClassAccuracy(
        overall, {label: per_class[label] for label in sorted(set(labels.tolist()))}
    )
