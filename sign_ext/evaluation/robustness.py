"""Accuracy under attack: what is left of it when an adversary may move every pixel a little.

An image counts as robust where the network answers correctly as it is *and* after the attack. An
adversary may leave an image alone, so an image that is wrong from the start is never robust, not
even if the attack happens to make it right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.data.classes import with_classes_of
from sign_ext.data.image_set import ImageSet
from sign_ext.evaluation.accuracy import placement, predict
from sign_ext.formatting import binomial_error, wilson_interval

# Images, labels int64 and positions in the data set int64 → adversarial images.
Attack = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Robustness:
    """How many images a network answers correctly as they are, and after an attack.

    Attributes:
        images: that were attacked.
        correct: answered correctly as they are.
        robust: of these, still answered correctly after the attack.
        others: images that are not of the class that a targeted attack aims at; None without one.
        reached: of these, answered with that class after the attack.
    """

    images: int
    correct: int
    robust: int
    others: int | None = None
    reached: int | None = None

    @property
    def accuracy(self) -> float:
        """The share of images answered correctly as they are, 0–1."""
        return self.correct / self.images

    @property
    def robust_accuracy(self) -> float:
        """The share of images answered correctly as they are and after the attack, 0–1."""
        return self.robust / self.images

    def to_dict(self) -> dict[str, Any]:
        """Return counts, shares, binomial standard errors and Wilson's 95% intervals, for JSON."""
        counts = {name: each for name, each in asdict(self).items() if each is not None}
        return {
            **counts,
            "accuracy": self.accuracy,
            "accuracy_error": binomial_error(self.accuracy, self.images),
            "accuracy_interval": list(wilson_interval(self.correct, self.images)),
            "robust_accuracy": self.robust_accuracy,
            "robust_accuracy_error": binomial_error(self.robust_accuracy, self.images),
            "robust_accuracy_interval": list(wilson_interval(self.robust, self.images)),
        }


class RobustnessCount:
    """Counts right answers, batch by batch.

    Args:
        model: float images (n, 3, H, W) in 0–255 → logits (n, classes).
        batch_size: images that are classified at once.
        target: the class that a targeted attack aims at, or None.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
        >>> count = RobustnessCount(model)
        >>> images = torch.zeros(2, 3, 2, 2)
        >>> count.add(images, images, torch.tensor([0, 1]))
        >>> count.result().robust
        1
    """

    def __init__(self, model: nn.Module, batch_size: int = 512, target: int | None = None) -> None:
        """Begin with no images."""
        self._model = model
        self._batch_size = batch_size
        self._target = target
        self._images = self._correct = self._robust = self._others = self._reached = 0

    def add(self, images: Tensor, attacked: Tensor, labels: Tensor) -> None:
        """Classify some images and their adversarial versions.

        Args:
            images: uint8 or float (n, 3, H, W), as they are.
            attacked: float, shaped as `images`.
            labels: int64 (n,), the true classes.

        Raises:
            ValueError: the logits are not finite, or a label is none of the network's outputs.
        """
        if not len(images):
            return
        labels = labels.cpu()
        before, after = self._answers(images, labels), self._answers(attacked, labels)
        self._images += len(images)
        self._correct += int((before == labels).sum())
        self._robust += int(((before == labels) & (after == labels)).sum())
        if self._target is not None:
            other = labels != self._target
            self._others += int(other.sum())
            self._reached += int((after[other] == self._target).sum())

    def _answers(self, images: Tensor, labels: Tensor) -> Tensor:
        logits = predict(self._model, images, batch_size=self._batch_size)
        check_labels(labels, logits.shape[1])
        if not bool(torch.isfinite(logits).all()):
            raise ValueError(
                "logits has NaN or infinite values; the model has diverged or its input is not in "
                "pixel units 0–255."
            )
        return logits.argmax(1)

    def result(self) -> Robustness:
        """Return the counts so far.

        Raises:
            ValueError: no image was counted.
        """
        if not self._images:
            raise ValueError("there are no images to attack; give at least one that can be read")
        targeted = () if self._target is None else (self._others, self._reached)
        return Robustness(self._images, self._correct, self._robust, *targeted)


def check_labels(labels: Tensor, outputs: int) -> None:
    """Raise ValueError unless all labels are outputs of a network.

    Args:
        labels: int64 (n,).
        outputs: number of the network's outputs.

    Example:
        >>> check_labels(torch.tensor([0, 9]), 10)
    """
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= outputs:
        raise ValueError(
            f"labels range from {lowest} to {highest}; accepted: 0 to {outputs - 1}, for the "
            f"network's {outputs} outputs"
        )


def robustness(
    model: nn.Module,
    test: ImageSet,
    attack: Attack,
    *,
    batch_size: int = 512,
    progress: Callable[[int, int], None] | None = None,
) -> Robustness:
    """Measure a network on images and on adversarial versions of them.

    Args:
        model: float images (n, 3, H, W) in 0–255 → logits (n, classes). With an attribute
            ``class_names`` the images' classes are matched with the model's by name.
        test: the images.
        attack: makes the versions of a batch from its images, float32 on the model's device,
            labels and positions in the set.
        batch_size: images at a time.
        progress: called with (images done, total) after every batch.

    Returns:
        The counts.

    Raises:
        ValueError: an empty set, classes that the model lacks, or NaN or infinite logits.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
        >>> pixels = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
        >>> test = ImageSet(pixels, torch.tensor([0, 1, 0, 1]), ("cat", "dog"), "pets/test")
        >>> robustness(model, test, lambda images, labels, positions: images).accuracy
        0.5
    """
    if len(test) == 0:
        raise ValueError(f"test={test.name!r} is empty; give at least one image.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; accepted: 1 or more.")
    test = with_classes_of(model, test)
    count, (device, dtype) = RobustnessCount(model, batch_size), placement(model)
    for positions in torch.arange(len(test)).split(batch_size):
        images, labels = test.images[positions], test.labels[positions]
        attacked = attack(images.to(device, dtype), labels.to(device), positions)
        count.add(images, attacked, labels)
        if progress is not None:
            progress(int(positions[-1]) + 1, len(test))
    return count.result()
