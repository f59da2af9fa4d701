"""Logits of a data set, and accuracy overall and class by class."""

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
    layout = torch.channels_last if fast else torch.contiguous_format
    logits = []
    with eval_mode(model), torch.inference_mode():
        for batch in images.split(batch_size):
            inputs = batch.to(device=device, dtype=dtype)
            try:
                outputs = model(inputs.contiguous(memory_format=layout))
            except RuntimeError:
                # A model that calls view() on its features takes the plain layout only.
                if layout is torch.contiguous_format:
                    raise
                layout = torch.contiguous_format
                outputs = model(inputs.contiguous())
            logits.append(outputs.to(device="cpu", dtype=torch.float32))
    # Outside inference mode, so that the result is an ordinary tensor.
    return torch.cat(logits)


def placement(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return where a model's numbers are, and of which floating type.

    Args:
        model: any module; one without parameters and buffers counts as float32 on the CPU.
    """
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Hold a model in eval mode and give every module its own training flag back.

    Args:
        model: the model; modules may differ in their flags (a frozen BatchNorm, say).
    """
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def class_accuracy(logits: Tensor, labels: Tensor, num_classes: int) -> tuple[float, list[float]]:
    """Compute the share of images whose largest logit is their label's.

    Args:
        logits: float tensor (N, num_classes).
        labels: int64 (N,).
        num_classes: number of classes.

    Returns:
        The accuracy over all images, and over the images of each class; NaN for a class that has
        none.

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
            "row a label and one column a class."
        )
    if not bool(torch.isfinite(logits).all()):
        raise ValueError(
            "logits has values that are not finite; the model has diverged or its input is not in "
            "pixel units 0–255."
        )
    # Columns 0 and 4 count a class's hits and its images; shares of counts are exact to float64.
    scores = multiclass_stat_scores(logits, labels, num_classes, average=None)
    right, there = scores[:, 0].tolist(), scores[:, 4].tolist()
    per_class = [
        hits / images if images else math.nan for hits, images in zip(right, there, strict=True)
    ]
    return sum(right) / sum(there), per_class


# Accuracy on a test set in which only some of the classes occur (Table 3).


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
