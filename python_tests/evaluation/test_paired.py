"""Paired statistics against closed forms, tables, integrals and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, special, stats

from sign_ext.evaluation import detectable_difference, holm, paired


def density(x: float, freedom: int) -> float:
    """Student's t, written out."""
    scale = special.gammaln((freedom + 1) / 2) - special.gammaln(freedom / 2)
    return (
        math.exp(scale)
        / math.sqrt(freedom * math.pi)
        * (1 + x * x / freedom) ** (-(freedom + 1) / 2)
    )


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_numbers_are_their_definitions(n: int, rng: np.random.Generator) -> None:
    a, b = rng.normal(0.85, 0.02, n), rng.normal(0.83, 0.02, n)
    found = paired(a.tolist(), b.tolist())
    differences = a - b
    mean = differences.sum() / n
    deviation = math.sqrt(((differences - mean) ** 2).sum() / (n - 1))
    assert found.pairs == n
    assert found.difference == pytest.approx(mean)
    assert found.deviation == pytest.approx(deviation)
    t = abs(mean) / (deviation / math.sqrt(n))
    inside, _ = integrate.quad(density, 0, t, args=(n - 1,))
    assert found.p_value == pytest.approx(1 - 2 * inside, abs=1e-7)
    # The interval is where the t-test of a shifted difference would not reject.
    for end in (found.low, found.high):
        at_end = stats.ttest_rel(a - end, b)
        assert at_end.pvalue == pytest.approx(0.05, rel=1e-6)
    assert found.low < mean < found.high
    assert found.detectable == pytest.approx(detectable_difference(n, deviation))


def test_pairs_matter() -> None:
    # The same values in another order: equal means, other paired differences.
    a, b = [0.80, 0.85, 0.90], [0.79, 0.84, 0.885]
    together, crossed = paired(a, b), paired(a, b[::-1])
    assert together.difference == pytest.approx(crossed.difference)
    assert together.p_value < 0.05 < crossed.p_value
    other_way = paired(b, a)
    assert other_way.difference == -together.difference
    assert other_way.p_value == pytest.approx(together.p_value)
    assert (other_way.low, other_way.high) == pytest.approx((-together.high, -together.low))


def test_missing_seeds_are_dropped_pairwise() -> None:
    nan, inf = float("nan"), float("inf")
    a = [0.5, None, 0.7, nan, 0.9, 0.6, None]
    b = [0.4, 0.3, 0.65, 0.2, inf, 0.3, None]
    assert paired(a, b) == paired([0.5, 0.7, 0.6], [0.4, 0.65, 0.3])
    with pytest.raises(ValueError, match="none of 2 seeds has both values"):
        paired([None, 1.0], [1.0, None])
    with pytest.raises(ValueError, match="2 values against 1"):
        paired([1.0, 2.0], [1.0])


def test_one_pair_and_equal_differences_have_no_test() -> None:
    one = paired([0.9], [0.8])
    assert one.difference == pytest.approx(0.1)
    assert one.pairs == 1
    assert one.deviation is None
    assert one.p_value is one.low is one.high is one.detectable is None
    # 0.3 − 0.2, 0.9 − 0.8 and 0.7 − 0.6 differ in their last bits.
    for a, b in (([0.3, 0.9, 0.7], [0.2, 0.8, 0.6]), ([0.5, 0.6], [0.5, 0.6]), ([0, 0], [0, 0])):
        equal = paired(a, b)
        assert equal.deviation == 0
        assert equal.p_value is equal.low is equal.high is equal.detectable is None


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_the_published_sample_sizes(effect: float, n: int) -> None:
    # Smallest n for 80% power at the two-sided 5% level (Cohen; G*Power 3.1, paired t-test).
    assert detectable_difference(n, 1.0) <= effect < detectable_difference(n - 1, 1.0)


@pytest.mark.parametrize(("n", "deviation"), [(2, 1.0), (3, 0.004), (5, 1.0), (10, 20.0)])
def test_the_power_is_that_of_simulated_experiments(
    n: int, deviation: float, rng: np.random.Generator
) -> None:
    true = detectable_difference(n, deviation)
    trials = 40_000
    draws = rng.normal(true, deviation, (trials, n))
    found = (stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05).mean()
    assert abs(found - 0.8) < 5 * math.sqrt(0.8 * 0.2 / trials)


@pytest.mark.parametrize("n", [2, 3, 4, 7, 50])
@pytest.mark.parametrize(("power", "level"), [(0.8, 0.05), (0.95, 0.01), (0.06, 0.05)])
def test_the_power_is_an_integral_over_the_deviation(n: int, power: float, level: float) -> None:
    # Given the sample deviation √(w / (n − 1)), the mean is normal: no noncentral t is needed.
    true = detectable_difference(n, 3.0, power=power, level=level)
    shift = true * math.sqrt(n) / 3.0
    critical = stats.t.ppf(1 - level / 2, n - 1)

    def rejected(chi: float) -> float:
        edge = critical * chi / math.sqrt(n - 1)
        return stats.chi.pdf(chi, n - 1) * (
            special.ndtr(shift - edge) + special.ndtr(-shift - edge)
        )

    found, _ = integrate.quad(rejected, 0, 12, limit=400)
    assert found == pytest.approx(power, abs=1e-6)


def test_detectable_scales_and_refuses() -> None:
    unit = detectable_difference(5, 1.0)
    assert detectable_difference(5, 0.01) == pytest.approx(unit / 100)
    assert detectable_difference(5, 0.0) == 0
    with pytest.raises(ValueError, match="pairs=1"):
        detectable_difference(1, 1.0)
    for deviation in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="deviation="):
            detectable_difference(3, deviation)
    for power, level in ((0.05, 0.05), (1.0, 0.05), (0.8, 0.0)):
        with pytest.raises(ValueError, match="accepted: 0 < level < power < 1"):
            detectable_difference(3, 1.0, power=power, level=level)


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_holm_is_the_closed_test_of_bonferroni(count: int, rng: np.random.Generator) -> None:
    # A hypothesis is rejected where every intersection that holds it is, by Bonferroni's test.
    values = (rng.random(count) ** 3).tolist()
    if count > 2:
        values[2] = values[0]  # a tie
    expected = [0.0] * count
    for size in range(1, count + 1):
        for subset in itertools.combinations(range(count), size):
            joint = min(1.0, size * min(values[i] for i in subset))
            for i in subset:
                expected[i] = max(expected[i], joint)
    assert holm(values) == pytest.approx(expected, abs=1e-15)


def test_holm_leaves_out_what_was_not_tested() -> None:
    assert holm([]) == []
    assert holm([None, None]) == [None, None]
    found = holm([0.02, None, 0.5, 0.01])
    assert found[1] is None
    assert [found[i] for i in (0, 2, 3)] == holm([0.02, 0.5, 0.01])
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="accepted: 0–1"):
            holm([0.5, bad])
