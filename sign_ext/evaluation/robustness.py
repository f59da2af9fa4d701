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
from sign_ext.formatting import binomial_error

# Images, labels int64 and positions in the data set int64 → adversarial images.
Attack = Callable[[Tensor, Tensor, Tensor], Tensor]

# A step of 2.5·ε/K lets K steps reach every point of the ball from every other (Madry et al. 2018,
# "Towards Deep Learning Models Resistant to Adversarial Attacks", Section 5).
STEPS_OF_THE_RADIUS = 2.5
PIXEL_RANGE = 255.0


def usual_step_size(epsilon: float, steps: int) -> float:
    """Return the step size 2.5·ε/K of Madry et al. (2018).

    Args:
        epsilon: radius of the ball, in the images' units.
        steps: K.

    Example:
        >>> usual_step_size(8, 10)
        2.0
    """
    return STEPS_OF_THE_RADIUS * epsilon / steps


def check_epsilon(epsilon: float, norm: str = "linf", values: int | None = None) -> None:
    """Raise ValueError unless a radius is one that an attack on pixels of 0–255 can use.

    Args:
        epsilon: the radius, in grey levels.
        norm: "linf" or "l2".
        values: of an image, C·H·W, by which an ℓ2 radius is bounded; None does not bound it.

    Raises:
        ValueError: it is 0 or less, not finite, or as large as the range of pixels allows any image
            to become any other.

    Example:
        >>> check_epsilon(8 / 255 * 255)
        >>> check_epsilon(300)
        Traceback (most recent call last):
        ValueError: epsilon is 300 grey levels; accepted: above 0 and below 255, the range of pixels
    """
    farthest = PIXEL_RANGE
    if norm == "l2":
        farthest = PIXEL_RANGE * values**0.5 if values is not None else float("inf")
    if 0 < epsilon < farthest:
        return
    bound = ""
    if norm == "linf":
        bound = " and below 255, the range of pixels"
    elif values is not None:
        bound = f" and below {farthest:.4g}, the distance of black from white"
    raise ValueError(f"epsilon is {epsilon:g} grey levels; accepted: above 0{bound}")


@dataclass(frozen=True)
class Robustness:
    """How many images a network answers correctly as they are, and after an attack.

    Attributes:
        images: that were attacked.
        correct: answered correctly as they are.
        robust: of these, still answered correctly after the attack.
    """

    images: int
    correct: int
    robust: int

    @property
    def accuracy(self) -> float:
        """The share of images answered correctly as they are, 0–1."""
        return self.correct / self.images

    @property
    def robust_accuracy(self) -> float:
        """The share of images answered correctly as they are and after the attack, 0–1."""
        return self.robust / self.images

    def to_dict(self) -> dict[str, Any]:
        """Return counts, shares and their binomial standard errors, for JSON."""
        return {
            **asdict(self),
            "accuracy": self.accuracy,
            "accuracy_error": binomial_error(self.accuracy, self.images),
            "robust_accuracy": self.robust_accuracy,
            "robust_accuracy_error": binomial_error(self.robust_accuracy, self.images),
        }


class RobustnessCount:
    """Counts right answers, batch by batch.

    Args:
        model: float images (n, 3, H, W) in 0–255 → logits (n, classes).
        batch_size: images that are classified at once.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
        >>> count = RobustnessCount(model)
        >>> images = torch.zeros(2, 3, 2, 2)
        >>> count.add(images, images, torch.tensor([0, 1]))
        >>> count.result()
        Robustness(images=2, correct=1, robust=1)
    """

    def __init__(self, model: nn.Module, batch_size: int = 512) -> None:
        """Begin with no images."""
        self._model = model
        self._batch_size = batch_size
        self._images = self._correct = self._robust = 0

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
        correct = self._right(images, labels)
        robust = correct & self._right(attacked, labels)
        self._images += len(images)
        self._correct += int(correct.sum())
        self._robust += int(robust.sum())

    def _right(self, images: Tensor, labels: Tensor) -> Tensor:
        logits = predict(self._model, images, batch_size=self._batch_size)
        check_labels(labels, logits.shape[1])
        if not bool(torch.isfinite(logits).all()):
            raise ValueError(
                "logits has NaN or infinite values; the model has diverged or its input is not in "
                "pixel units 0–255."
            )
        return logits.argmax(1) == labels.cpu()

    def result(self) -> Robustness:
        """Return the counts so far.

        Raises:
            ValueError: no image was counted.
        """
        if not self._images:
            raise ValueError("there are no images to attack; give at least one that can be read")
        return Robustness(self._images, self._correct, self._robust)


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
