"""What guessing gives on labelled images, and what a network must show to be better than that.

Without scipy, which a machine that only trains may lack.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from sign_ext.formatting import percent

LEVEL = 0.05  # how often a network that guesses is taken for one that has learnt
NOT_SHOWN = "not shown to have learnt"


def chance_of_as_many(right: int, images: int, share: float) -> float:
    """How often as many answers or more are right, if each is with the same probability.

    The exact binomial tail, Σ_{k ≥ right} C(n, k) pᵏ (1 − p)ⁿ⁻ᵏ.

    Args:
        right: how many are right.
        images: n, how many answers there are.
        share: p, 0–1.

    Example:
        >>> chance_of_as_many(2, 2, 0.5), chance_of_as_many(0, 2, 0.5)
        (0.25, 1.0)
    """
    if right <= 0:
        return 1.0
    if right > images or share <= 0:
        return 0.0
    if share >= 1:
        return 1.0
    of_all, yes, no = math.lgamma(images + 1), math.log(share), math.log1p(-share)
    terms = (
        math.exp(
            of_all - math.lgamma(k + 1) - math.lgamma(images - k + 1) + k * yes + (images - k) * no
        )
        for k in range(right, images + 1)
    )
    return min(math.fsum(terms), 1.0)


def doubt_of_accuracy(
    accuracy: float, images: int, share: float, *, of: str, guess: str, tries: int = 1
) -> str:
    """Say why an accuracy does not show that a network has learnt, or "" where it does.

    It does if guessing gives as many right answers, or more, in fewer than 5% of all cases, by an
    exact binomial test. Of several validations the best is kept, and each of them is a try, so 5%
    are divided by their number (Bonferroni). Where even all right answers would pass for
    guessing, there are too few images to tell, and nothing is said.

    Args:
        accuracy: 0–1, over all images.
        images: how many.
        share: the accuracy of guessing, 0–1.
        of: what was measured, such as "best validation accuracy".
        guess: what share is, such as "of the most common class".
        tries: validations of which this is the best.

    Example:
        >>> doubt_of_accuracy(0.5, 90, 1 / 3, of="accuracy", guess="of the most common class")
        ''
        >>> doubt_of_accuracy(0.4, 90, 1 / 3, of="accuracy", guess="of the most common class")
        'its accuracy, 40.0% on 90 images, is what guessing gives (33.3% of the most common class)'
    """
    level = LEVEL / tries
    if images < 1 or chance_of_as_many(images, images, share) >= level:
        return ""
    if chance_of_as_many(round(accuracy * images), images, share) < level:
        return ""
    return (
        f"its {of}, {percent(accuracy)}% on {images:,} images, is what guessing gives "
        f"({percent(share)}% {guess})"
    )


def doubt_of_area(area: float, positives: int, negatives: int, *, of: str, tries: int = 1) -> str:
    """Say why an area under the ROC curve does not show that a network has learnt, or "".

    A network that guesses orders the images at random. The area then deviates from 0.5 by
    √((m + n + 1) / 12mn), with m and n images of the two classes (Mann and Whitney), and is taken
    for normal. `tries` and too few images are as in `doubt_of_accuracy`.

    Args:
        area: 0–1.
        positives: m, images of class 1.
        negatives: n, images of class 0.
        of: what was measured, such as "best validation AUC".
        tries: validations of which this is the best.

    Example:
        >>> doubt_of_area(0.55, 30, 120, of="best validation AUC")
        'its best validation AUC, 0.550 on 150 images, is what guessing gives (0.500 ± 0.059)'
        >>> doubt_of_area(0.65, 30, 120, of="best validation AUC")
        ''
    """
    if positives < 1 or negatives < 1:
        return ""
    error = math.sqrt((positives + negatives + 1) / (12 * positives * negatives))
    least = 0.5 + NormalDist().inv_cdf(1 - LEVEL / tries) * error
    if least >= 1 or area > least:
        return ""
    return (
        f"its {of}, {area:.3f} on {positives + negatives:,} images, is what guessing gives "
        f"(0.500 ± {error:.3f})"
    )
