"""The test over seeds and images, against analysis of variance, closed forms and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sign_ext.evaluation import Samples, crossed, decide, image_covariance, paired
from sign_ext.evaluation.paired import smallest_detectable


def covariance_of(values: np.ndarray) -> np.ndarray:
    """The covariance of the seeds' means over images, (images, seeds) → (seeds, seeds)."""
    zeros = [Samples("mean", np.zeros(len(values)))] * values.shape[1]
    return image_covariance([Samples("mean", column) for column in values.T], zeros)


def test_the_error_is_that_of_a_two_way_analysis_of_variance(rng: np.random.Generator) -> None:
    images, seeds = 57, 5
    values = (
        rng.normal(size=(images, 1)) + 3 * rng.normal(size=seeds) + rng.normal(size=(images, seeds))
    )
    found = crossed(values.mean(axis=0).tolist(), covariance_of(values))
    # Random effects of rows and columns: mean squares from the sums of squares, written out.
    grand, rows, columns = values.mean(), values.mean(axis=1), values.mean(axis=0)
    ms_images = seeds * ((rows - grand) ** 2).sum() / (images - 1)
    ms_seeds = images * ((columns - grand) ** 2).sum() / (seeds - 1)
    rest = values - rows[:, None] - columns + grand
    ms_rest = (rest**2).sum() / ((images - 1) * (seeds - 1))
    variance = (ms_seeds + ms_images - ms_rest) / (images * seeds)
    assert found.error == pytest.approx(math.sqrt(variance))
    freedom = (ms_seeds + ms_images - ms_rest) ** 2 / (ms_seeds**2 / (seeds - 1))
    assert found.freedom == pytest.approx(freedom)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(grand) / math.sqrt(variance), freedom))


def test_without_images_it_is_the_paired_t_test(rng: np.random.Generator) -> None:
    d = rng.normal(0.01, 0.01, 4).tolist()
    found, t = crossed(d, np.zeros((4, 4))), paired(d, [0.0] * 4)
    assert found.p_value == pytest.approx(t.p_value)
    assert found.interval() == pytest.approx((t.low, t.high))
    assert found.detectable() == pytest.approx(t.detectable)


def test_without_seeds_it_is_the_normal_test_of_the_images() -> None:
    # Three networks that answer alike: the images are all that varies.
    values = np.repeat(np.array([1.0, 0, 0, -1, 1, 0, 1, 0])[:, None], 3, axis=1)
    found = crossed([0.25] * 3, covariance_of(values))
    error = values[:, 0].std(ddof=1) / math.sqrt(8)
    assert found.error == pytest.approx(error)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(0.25 / error), rel=1e-4)


def test_seeds_that_agree_by_chance_do_not_hide_the_images_error() -> None:
    # Disjoint images decide each seed, so the seeds' spread is at least what images bring.
    values = np.zeros((30, 3))
    for seed in range(3):
        values[10 * seed : 10 * seed + 6, seed] = 1
    found = crossed([0.2] * 3, covariance_of(values))
    alone = values.var(axis=0, ddof=1).mean() / 30
    covariance = np.cov(values.T)[0, 1] / 30
    assert covariance < 0
    assert found.image_error == 0
    assert found.error == pytest.approx(math.sqrt((alone - covariance) / 3))
    assert found.freedom == pytest.approx(2)


def test_one_seed_compares_two_networks_only() -> None:
    found = crossed([0.3], np.array([[0.04]]))
    assert found.error == pytest.approx(0.2)
    assert found.p_value is found.interval() is found.equivalence(0.1) is found.detectable() is None
    none = crossed([0.0, 0.0], np.zeros((2, 2)))
    assert none.p_value is None
    with pytest.raises(ValueError, match="a row and a column for each"):
        crossed([0.1, 0.2], np.zeros((3, 3)))


@pytest.mark.parametrize("difference", [-0.011, -0.002, 0.0, 0.004, 0.0079])
def test_equivalence_is_the_90_percent_interval_within_the_margin(difference: float) -> None:
    d = [difference - 0.001, difference, difference + 0.0015]
    found = crossed(d, np.full((3, 3), 2e-7))
    for margin in (0.0005, 0.004, 0.008, 0.02):
        low, high = found.interval(0.1)
        inside = -margin < low and high < margin
        assert (found.equivalence(margin) < 0.05) == inside
    lower = stats.t.sf((found.difference + 0.004) / found.error, found.freedom)
    upper = stats.t.cdf((found.difference - 0.004) / found.error, found.freedom)
    assert found.equivalence(0.004) == pytest.approx(max(lower, upper))
    with pytest.raises(ValueError, match="margin=0"):
        found.equivalence(0)


@pytest.mark.parametrize("freedom", [1.0, 2.5, 40.0, 99_999.0, 1e6])
def test_the_detectable_difference_has_the_power_it_claims(freedom: float) -> None:
    critical = stats.t.ppf(0.975, freedom)
    true = smallest_detectable(2.0, freedom) / 2.0
    # Given the estimated error, which is chi-distributed, the statistic is normal.
    grid = (np.arange(200_000) + 0.5) / 200_000
    scale = np.sqrt(stats.chi2.ppf(grid, freedom) / freedom)
    power = stats.norm.sf(critical * scale - true) + stats.norm.cdf(-critical * scale - true)
    assert power.mean() == pytest.approx(0.8, abs=2e-4)


def test_decisions() -> None:
    assert decide(0.1, 0.049) == "better"
    assert decide(-0.1, 0.049) == "worse"
    assert decide(-0.1, 0.049, higher_is_better=False) == "better"
    assert decide(0.1, 0.049, 0.001) == "better"  # and smaller than the margin
    assert decide(0.1, 0.05, 0.049) == "no difference"
    assert decide(0.1, 0.05, 0.05) == decide(0.1, None) == decide(0.1, 0.5) == "undecided"


def test_the_interval_covers_the_truth(rng: np.random.Generator) -> None:
    # Accuracy differences of 4 seeds on 400 shared images; seeds, images and both together matter.
    seeds, images, trials, covered = 4, 400, 1500, 0
    for _ in range(trials):
        lean = 0.25 * rng.standard_normal((images, 1)) + 0.02 * rng.standard_normal(seeds)
        values = (rng.random((images, seeds)) < 0.5 + lean).astype(float)
        low, high = crossed(values.mean(axis=0).tolist(), covariance_of(values)).interval()
        covered += low < 0.5 < high
    assert 0.94 < covered / trials < 0.975
