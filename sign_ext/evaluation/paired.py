"""Two methods over the same seeds: paired t-test, detectable difference, Holm's correction."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.05  # of every test and interval here
POWER = 0.8
MANY_DEGREES = 1e5  # of freedom: Student's t is normal to five digits


@dataclass(frozen=True)
class Paired:
    """Statistics of paired differences a − b.

    Attributes:
        difference: their mean.
        deviation: their sample standard deviation; None for one pair.
        p_value: of the two-sided paired t-test; None for one pair, and if all differences are
            equal, because a deviation of 0 is no estimate to test against.
        low: lower end of the 95% confidence interval of the mean difference; None like `p_value`.
        high: its upper end.
        detectable: the smallest true difference that this many pairs with this deviation detect
            with 80% power at the 5% level; None like `p_value`.
        pairs: number of pairs with both values.
    """

    difference: float
    deviation: float | None
    p_value: float | None
    low: float | None
    high: float | None
    detectable: float | None
    pairs: int


def paired(values_a: Sequence[float | None], values_b: Sequence[float | None]) -> Paired:
    """Compare two methods seed by seed.

    Args:
        values_a: one value per seed; None if missing. NaN and infinities count as None, as in our
            JSON.
        values_b: the values of the other method for the same seeds. Seeds that lack either value
            are omitted.

    Returns:
        The mean difference with its uncertainty, in the values' unit.

    Raises:
        ValueError: lengths that differ, or no seed with both values.

    Example:
        >>> found = paired([0.84, 0.87, 0.86], [0.83, 0.85, 0.83])
        >>> round(found.difference, 3), round(found.p_value, 3), round(found.detectable, 3)
        (0.02, 0.074, 0.033)
    """
    from scipy import stats

    kept = complete_pairs(values_a, values_b)
    differences = [a - b for a, b in kept]
    n, mean = len(differences), statistics.fmean(differences)
    if n == 1:
        return Paired(mean, None, None, None, None, None, n)
    deviation = statistics.stdev(differences)
    # Differences that are equal as decimal numbers can differ in their last bits.
    if deviation <= 1e-12 * max(abs(value) for pair in kept for value in pair):
        return Paired(mean, 0.0, None, None, None, None, n)
    test = stats.ttest_1samp(differences, 0.0)
    half = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * deviation / math.sqrt(n)
    return Paired(
        difference=mean,
        deviation=deviation,
        p_value=float(test.pvalue),
        low=mean - half,
        high=mean + half,
        detectable=detectable_difference(n, deviation),
        pairs=n,
    )


def complete_pairs(
    values_a: Sequence[float | None], values_b: Sequence[float | None]
) -> list[tuple[float, float]]:
    """Return the pairs of which both values are finite numbers; see `paired`."""
    if len(values_a) != len(values_b):
        raise ValueError(
            f"{len(values_a)} values against {len(values_b)}; accepted: one of each per seed, None "
            "if missing."
        )
    kept = [
        (float(a), float(b))
        for a, b in zip(values_a, values_b, strict=True)
        if a is not None and b is not None and math.isfinite(a) and math.isfinite(b)
    ]
    if not kept:
        raise ValueError(f"none of {len(values_a)} seeds has both values; at least one must.")
    return kept


def detectable_difference(
    pairs: int, deviation: float, *, power: float = POWER, level: float = LEVEL
) -> float:
    """Compute the smallest true mean difference that a paired t-test finds with a given power.

    With a true difference d, the statistic of n pairs follows the noncentral t distribution with
    n − 1 degrees of freedom and noncentrality d √n / deviation; d is solved for so that the
    statistic exceeds the two-sided critical value with probability `power`. A normal approximation
    would give less than half of the right value for 3 pairs.

    Args:
        pairs: n, 2 or more.
        deviation: standard deviation of the paired differences, 0 or more.
        power: probability of finding the difference, between `level` and 1.
        level: of the two-sided test, between 0 and 1.

    Returns:
        The difference, in the deviation's unit.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> round(detectable_difference(34, 1.0), 3)
        0.495
    """
    if pairs < 2:
        raise ValueError(f"pairs={pairs}; accepted: 2 or more, one pair has no deviation.")
    if not 0 <= deviation < math.inf:
        raise ValueError(f"deviation={deviation}; accepted: 0 or more.")
    error = deviation / math.sqrt(pairs)
    return smallest_detectable(error, pairs - 1, power=power, level=level)


def smallest_detectable(
    error: float, freedom: float, *, power: float = POWER, level: float = LEVEL
) -> float:
    """Compute the smallest true difference that a t-test finds with a given power.

    With a true difference d, the statistic follows the noncentral t distribution with noncentrality
    d / error; see `detectable_difference`.

    Args:
        error: standard error of the difference, 0 or more.
        freedom: degrees of freedom, above 0; not necessarily whole.
        power: probability of finding the difference, between `level` and 1.
        level: of the two-sided test, between 0 and 1.

    Returns:
        The difference, in the error's unit.

    Raises:
        ValueError: power and level out of range.

    Example:
        >>> round(smallest_detectable(1.0, 1e6), 3)
        2.802
    """
    from scipy.optimize import brentq
    from scipy.stats import nct, norm, t

    if not 0 < level < power < 1:
        raise ValueError(f"level={level}, power={power}; accepted: 0 < level < power < 1.")
    # scipy's noncentral t loses accuracy with many degrees of freedom, where it is normal.
    many = freedom > MANY_DEGREES
    critical = float(norm.ppf(1 - level / 2) if many else t.ppf(1 - level / 2, freedom))

    def tail(noncentrality: float) -> float:
        found = (
            norm.sf(critical - noncentrality) if many else nct.sf(critical, freedom, noncentrality)
        )
        return float(found)

    def excess_power(noncentrality: float) -> float:
        # By symmetry, because scipy's cdf is NaN far in the lower tail.
        return tail(noncentrality) + tail(-noncentrality) - power

    high = 1.0
    while excess_power(high) < 0:
        high *= 2
    return float(brentq(excess_power, 0.0, high, xtol=1e-10)) * error


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values for many tests by Holm's step-down procedure.

    Rejecting where an adjusted value is below α makes the probability of even one false rejection
    at most α, whatever the tests' dependence. The k-th smallest of m values (k from 1) becomes
    (m − k + 1) p, but not less than those before it, and 1 at most.

    Args:
        p_values: in any order, each 0–1; None (no test was made) stays None and is not
            counted.

    Returns:
        The adjusted values in the same order.

    Raises:
        ValueError: a value outside 0–1.

    Example:
        >>> holm([0.01, None, 0.04, 0.03])
        [0.03, None, 0.06, 0.06]
    """
    tested = [(p, i) for i, p in enumerate(p_values) if p is not None]
    if any(not 0 <= p <= 1 for p, _ in tested):
        raise ValueError(f"p_values={list(p_values)}; accepted: 0–1 or None each.")
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for k, (p, i) in enumerate(sorted(tested)):
        largest = max(largest, min(1.0, (len(tested) - k) * p))
        adjusted[i] = largest
    return adjusted
