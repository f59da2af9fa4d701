"""What makes a measurement doubtful: images in other units, and an accuracy that guessing gives."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor, nn

from sign_ext.eval_state import unwrap
from sign_ext.evaluation.accuracy import placement
from sign_ext.evaluation.delong import auc_components, auc_covariance
from sign_ext.formatting import percent
from sign_ext.pixel_range import check_units
from sign_ext.probe import IMAGES_SEEN, statistics_of

LEVEL = 0.05  # of every test here
FAR_BELOW = 1e-3  # how rarely guessing gives so little, where that points to the order of classes

CHECK = (
    "Check the normalisation (images are 0–255, and the network's preprocessing is its first "
    "module: sign_ext.models.with_normalization(network, mean, std), --normalize on the command "
    "line), the order of the classes (the network's outputs against the labels), and whether the "
    "network was trained at all and its trained weights were loaded"
)


def warn_of_units(model: nn.Module, images: Tensor) -> None:
    """Warn, once for a network, if images are in other units than it takes, where that shows.

    Args:
        model: any classifier; left as it is.
        images: (N, C, H, W), N ≥ 1, uint8 or floating, on any device.
    """
    device, dtype = placement(model)
    some = images[:: -(-len(images) // IMAGES_SEEN)].to(device=device, dtype=dtype)
    network = unwrap(model)
    check_units(network, network, some, statistics_of(some), dtype, place="whole")


def doubt_of_learning(logits: Tensor, labels: Tensor) -> str:
    """Say why a classifier has not shown that it learnt anything, or "" where it has.

    It has if a one-sided test at 5% excludes that it knows nothing: of two classes, that the area
    under the ROC curve is 0.5, with DeLong's standard error; of more, that its accuracy is the
    share of the most frequent class, by an exact binomial test.

    Args:
        logits: float (N, classes), finite.
        labels: int64 (N,), with two or more of each of two classes.

    Example:
        >>> import torch
        >>> labels = torch.arange(40) % 4
        >>> doubt_of_learning(torch.eye(4)[labels], labels)
        ''
        >>> doubt_of_learning(torch.zeros(40, 4), labels)
        'its accuracy of 25.0% on 40 images is not above the 25.0% of the most frequent class'
    """
    from scipy.stats import binom, norm

    images = len(labels)
    counts = np.bincount(labels.cpu().numpy(), minlength=logits.shape[1])
    if len(counts) == 2 and counts.min() >= 2:
        difference = (logits[:, 1].double() - logits[:, 0].double()).cpu().numpy()
        curve = auc_components(difference, (labels == 1).cpu().numpy())
        error = math.sqrt(float(auc_covariance([curve])[0, 0]))
        if curve.area - float(norm.ppf(1 - LEVEL)) * error > 0.5:
            return ""
        return (
            f"the area under its ROC curve, {curve.area:.3f} with a standard error of {error:.3f} "
            f"on {images:,} images, is not above 0.5"
        )
    correct = int((logits.argmax(1) == labels).sum())
    largest = float(counts.max()) / images
    if float(binom.sf(correct - 1, images, largest)) < LEVEL:
        return ""
    return (
        f"its accuracy of {percent(correct / images)}% on {images:,} images is not above the "
        f"{percent(largest)}% of the most frequent class"
    )


def doubt_of_guessing(accuracy: float, labels: Tensor, classes: int) -> str:
    """What to check about an accuracy that guessing would give too, or "" where it would not.

    That is one not above 1/classes, or one that fits the share of the most frequent label, which a
    network gets that always gives the same answer; both by an exact binomial test at 5%. Where
    even an accuracy of 1 would pass for guessing, there are too few images to tell. Far less than
    1/classes points to another order of the classes, and the message says that alone.

    Args:
        accuracy: 0–1, over all images.
        labels: (N,) the images' classes, N ≥ 1.
        classes: the number of the network's outputs, 2 or more to tell anything.

    Example:
        >>> import torch
        >>> labels = torch.arange(90) % 3
        >>> doubt_of_guessing(0.9, labels, 3)
        ''
        >>> doubt_of_guessing(0.3, labels, 3)[:64]
        'accuracy 30.0% on 90 images is what guessing gives (33.3% for 1 '
    """
    from scipy.stats import binom

    images = len(labels)
    if classes < 2 or images == 0 or not math.isfinite(accuracy):
        return ""
    correct = round(accuracy * images)
    shares = np.bincount(labels.cpu().numpy(), minlength=classes) / images
    largest = float(shares.max())
    by_chance = 1 / classes

    def at_least(share: float) -> float:
        return float(binom.sf(correct - 1, images, share))

    def at_most(share: float) -> float:
        return float(binom.cdf(correct, images, share))

    if by_chance**images > LEVEL:
        return ""
    guesses = at_least(by_chance) > LEVEL
    # Of nearly balanced labels the share is that of guessing; of nearly one, any good network's.
    telling = 1.2 * by_chance < largest < 0.95
    one_answer = telling and min(at_least(largest), at_most(largest)) > LEVEL / 2
    if not (guesses or one_answer):
        return ""
    always_one = any(min(at_least(each), at_most(each)) > LEVEL / 2 for each in set(shares))
    if at_most(by_chance) < FAR_BELOW and not always_one:
        return (
            f"accuracy {percent(accuracy)}% on {images:,} images is far below what guessing gives "
            f"({percent(by_chance)}% for 1 of {classes} classes): the classes are probably in "
            "another order in the network's outputs than in the labels"
        )
    share = f"; {percent(largest)}% for the most frequent of these" if largest < 1 else ""
    return (
        f"accuracy {percent(accuracy)}% on {images:,} images is what guessing gives "
        f"({percent(by_chance)}% for 1 of {classes} classes{share}). {CHECK}"
    )
