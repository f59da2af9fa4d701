"""How many seeds a comparison needs, planned from a pilot."""

from __future__ import annotations

import math

from sign_ext.evaluation.crossed import FREEDOM
from sign_ext.evaluation.paired import POWER, smallest_detectable

CONFIDENCE = 0.8  # of the bound that is planned with
MOST_SEEDS = 1000


def deviation_bound(deviation: float, seeds: int, *, confidence: float = CONFIDENCE) -> float:
    """Compute the upper bound of a standard deviation that a few seeds have shown.

    A pilot's deviation is as often too small as too large, and planning with it fails half the
    time. The bound is s √((S − 1) / χ²), with the (1 − confidence) quantile of χ² with S − 1
    degrees of freedom, for normal differences (Browne, Statistics in Medicine 14, 1995).

    Args:
        deviation: s, the sample standard deviation of the pilot's paired differences.
        seeds: S, 2 or more.
        confidence: that the true deviation is below the bound, between 0 and 1.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> round(deviation_bound(0.4, 3), 2), round(deviation_bound(0.4, 30), 2)
        (0.85, 0.45)
    """
    if seeds < 2 or not 0 <= deviation < math.inf or not 0 < confidence < 1:
        raise ValueError(
            f"deviation={deviation}, seeds={seeds}, confidence={confidence}; accepted: 0 or more, "
            "2 or more, and between 0 and 1."
        )
    from scipy.stats import chi2

    return deviation * math.sqrt((seeds - 1) / float(chi2.ppf(1 - confidence, seeds - 1)))


def seeds_needed(
    effect: float, deviation: float, image_error: float = 0.0, *, power: float = POWER
) -> int | None:
    """Compute how many seeds find a difference, by the test of `crossed`.

    Args:
        effect: the true difference to be found, above 0.
        deviation: of the differences over seeds, as observed: it holds what the images of one test
            set do to each seed differently, too.
        image_error: standard error that all seeds share, √c of `crossed`, which no number of seeds
            lowers.
        power: probability of finding it at the 5% level.

    Returns:
        The smallest number of seeds, 2 or more; None if 1,000 are too few.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> seeds_needed(0.87, 0.5, 0.17), seeds_needed(0.4, 0.5, 0.17)
        (6, None)
    """
    usable = all(0 <= each < math.inf for each in (deviation, image_error))
    if not 0 < effect < math.inf or not usable:
        raise ValueError(
            f"effect={effect}, deviation={deviation}, image_error={image_error}; accepted: above "
            "0, 0 or more, and 0 or more."
        )
    for seeds in range(2, MOST_SEEDS + 1):
        by_seeds = deviation**2 / seeds
        variance = by_seeds + image_error**2
        freedom = FREEDOM
        if by_seeds:
            freedom = min(FREEDOM, (variance / by_seeds) ** 2 * (seeds - 1))
        if smallest_detectable(math.sqrt(variance), freedom, power=power) <= effect:
            return seeds
    return None
