"""Logits of a data set, and accuracies: overall, by class, and with some classes absent.

For two classes, also the ROC curve and the area under it.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn


def predict(model: nn.Module, images: Tensor, *, batch_size: int = 512) -> Tensor:
    """Compute a model's logits in eval mode, batch by batch, on the model's device.

    Args:
        model: float images (n, 3, H, W) in pixel units 0–255 → logits (n, classes). Its training
            flags are restored afterwards, also after an exception.
        images: uint8 or float tensor (N, 3, H, W) on any device; one batch of it is converted at a
            time.
        batch_size: images at once.

    Returns:
        float32 logits (N, classes) on the CPU.

    Raises:
        ValueError: no images, or a batch size below 1.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
        >>> predict(model, torch.zeros(5, 3, 2, 2, dtype=torch.uint8)).shape
        torch.Size([5, 4])
    """
    if len(images) == 0:
        raise ValueError("images is empty; give at least one image.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; accepted: 1 or more.")
    device, dtype = placement(model)
    # Convolutions on the CPU take about half the time in channels_last.
    fast = device.type == "cpu" and images.ndim == 4
    memory_format = torch.channels_last if fast else torch.contiguous_format
    logits = []
    with _eval_mode(model), torch.inference_mode():
        for batch in images.split(batch_size):
            inputs = batch.to(device=device, dtype=dtype)
            try:
                outputs = model(inputs.contiguous(memory_format=memory_format))
            except RuntimeError:
                # A model that calls view() on its features fails with channels_last.
                if memory_format is torch.contiguous_format:
                    raise
                memory_format = torch.contiguous_format
                outputs = model(inputs.contiguous())
            logits.append(outputs.to(device="cpu", dtype=torch.float32))
    # Outside inference mode, so that the result is an ordinary tensor.
    return torch.cat(logits)


def placement(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return the device and the floating-point dtype of a model.

    Args:
        model: any module; without parameters and buffers it counts as float32 on the CPU.
    """
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Hold a model in eval mode, then restore each module's training flag.

    Args:
        model: the model; its modules may have different flags (a frozen BatchNorm, for example).
    """
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def class_accuracy(logits: Tensor, labels: Tensor, num_classes: int) -> tuple[float, list[float]]:
    """Compute the share of images whose largest logit is that of their label.

    Args:
        logits: float tensor (N, num_classes).
        labels: int64 (N,).
        num_classes: number of classes.

    Returns:
        The accuracy over all images, and over the images of each class; NaN for a class without
        images.

    Raises:
        ValueError: no images, logits that are not finite, or shapes that do not fit.

    Example:
        >>> class_accuracy(torch.eye(3), torch.tensor([0, 1, 1]), 3)
        (0.6666666666666666, [1.0, 0.5, nan])
    """
    from torchmetrics.functional.classification import multiclass_stat_scores

    if len(labels) == 0:
        raise ValueError("labels is empty; give at least one image.")
    if logits.shape != (len(labels), num_classes):
        raise ValueError(
            f"logits has shape {tuple(logits.shape)}; accepted: {(len(labels), num_classes)}, one "
            "row per label and one column per class."
        )
    if not bool(torch.isfinite(logits).all()):
        raise ValueError(
            "logits has NaN or infinite values; the model has diverged or its input is not in "
            "pixel units 0–255."
        )
    # Columns 0 and 4 count a class's correct images and its images. Dividing the counts here is
    # exact in float64; torchmetrics would divide in float32.
    scores = multiclass_stat_scores(logits, labels, num_classes, average=None)
    correct, present = scores[:, 0].tolist(), scores[:, 4].tolist()
    per_class = [
        right / images if images else math.nan
        for right, images in zip(correct, present, strict=True)
    ]
    return sum(correct) / sum(present), per_class


class PresentClassAccuracy(NamedTuple):
    """Accuracies (0–1) on a test set that lacks some of the classes (Table 3).

    Attributes:
        overall: over all images. This is Table 3's "Mean (643)": the paper's class accuracies times
            its counts give 335, 306 and 353 correct images of 643, which are its 0.5210, 0.4759
            and 0.5490; the means of its five class accuracies are 0.6406, 0.5979 and 0.6571.
        per_class: label → accuracy, for the classes with images.
    """

    overall: float
    per_class: dict[int, float]

    @property
    def class_mean(self) -> float:
        """The mean of `per_class`, each class with the same weight."""
        return statistics.fmean(self.per_class.values())


def present_class_accuracy(
    logits: Tensor, labels: Tensor, num_classes: int
) -> PresentClassAccuracy:
    """Compute accuracies on a test set that lacks some of a classifier's classes.

    A prediction may be any class; one that the test set lacks is wrong.

    Args:
        logits: float tensor (N, num_classes).
        labels: int64 (N,).
        num_classes: number of the classifier's classes.

    Returns:
        The accuracy over images and by class present, which unpacks as a pair; its property
        `class_mean` is the mean over classes.

    Raises:
        ValueError: no images, logits that are not finite, or shapes that do not fit.

    Example:
        >>> found = present_class_accuracy(torch.eye(4)[[1, 0, 3]], torch.tensor([1, 1, 3]), 4)
        >>> found.overall, found.per_class, found.class_mean
        (0.6666666666666666, {1: 0.5, 3: 1.0}, 0.75)
    """
    overall, per_class = class_accuracy(logits, labels, num_classes)
    return PresentClassAccuracy(
        overall, {label: per_class[label] for label in sorted(set(labels.tolist()))}
    )


def roc_auc(logits: Tensor, labels: Tensor) -> float:
    """Compute the area under the ROC curve: how often a positive image outscores a negative one.

    The score is the difference of the logits, log p(1)/p(0). The area is Mann and Whitney's
    statistic: the share of the pairs (positive, negative) in which the positive's score is
    higher, ties counting one half.

    Args:
        logits: float tensor (N, 2), finite; class 1 is the positive one (melanoma).
        labels: int64 (N,), each 0 or 1, both present.

    Returns:
        The area, 0–1; 0.5 is chance.

    Raises:
        ValueError: shapes that do not fit, other labels, only one class, or NaN or infinite values.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 3.0]])
        >>> roc_auc(logits, torch.tensor([0, 0, 1, 1]))
        0.75
    """
    from torchmetrics.functional.classification import binary_auroc

    return float(binary_auroc(_scores(logits, labels), labels))


def roc_curve(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the ROC curve: the false positive rate for each true positive rate.

    Args:
        logits: as for `roc_auc`.
        labels: as for `roc_auc`.

    Returns:
        The false positive rate and the true positive rate, float32 on the CPU, one value for each
        distinct score from the highest down, from (0, 0) to (1, 1). The area under
        them by the trapezoidal rule is `roc_auc`.

    Raises:
        ValueError: as `roc_auc`.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 3.0]])
        >>> false_positive, true_positive = roc_curve(logits, torch.tensor([0, 0, 1, 1]))
        >>> false_positive.tolist(), true_positive.tolist()
        ([0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0])
    """
    from torchmetrics.functional.classification import binary_roc

    false_positive, true_positive, _ = binary_roc(_scores(logits, labels), labels)
    return false_positive.float().cpu(), true_positive.float().cpu()


def _scores(logits: Tensor, labels: Tensor) -> Tensor:
    """Check both, and return scores in 0–1, float64 (N,), ordered as the logit differences.

    torchmetrics applies the logistic function to scores outside 0–1, which makes large ones equal.
    The curve depends only on the order of the scores, so their ranks are returned.
    """
    if labels.ndim != 1 or logits.shape != (len(labels), 2):
        raise ValueError(
            f"logits has shape {tuple(logits.shape)} and labels {tuple(labels.shape)}; accepted: "
            "(N, 2) and (N,). For more than two classes use class_accuracy."
        )
    if not bool(torch.isfinite(logits).all()):
        raise ValueError(
            "logits has NaN or infinite values; the model has diverged or its input is not in "
            "pixel units 0–255."
        )
    present = sorted(set(labels.tolist()))
    if present != [0, 1]:
        raise ValueError(
            f"labels has the values {present[:5]}; accepted: 0 and 1, both of them present: a ROC "
            "curve compares positive with negative images."
        )
    difference = logits[:, 1].double() - logits[:, 0].double()
    distinct, ranks = difference.unique(return_inverse=True)
    return (ranks + 1).double() / len(distinct)
