"""Numbers of seeds, against a simulation of the test that they are planned for."""

import numpy as np
import pytest
from scipy.stats import chi2

from sign_ext.evaluation import deviation_bound, seeds_needed, smallest_detectable
from sign_ext.evaluation.crossed import crossed


@pytest.mark.parametrize("seeds", [2, 3, 7])
def test_the_bound_holds_as_often_as_it_says(seeds):
    rng = np.random.default_rng(seeds)
    shown = rng.normal(0, 0.4, (4000, seeds)).std(axis=1, ddof=1)
    held = np.mean([deviation_bound(float(s), seeds) >= 0.4 for s in shown])
    assert held == pytest.approx(0.8, abs=0.03)
    again = 0.4 * ((seeds - 1) / chi2.isf(0.9, seeds - 1)) ** 0.5
    assert deviation_bound(0.4, seeds, confidence=0.9) == pytest.approx(again)


def test_so_many_seeds_find_the_difference_in_four_of_five_cases():
    effect, deviation, shared = 0.8, 0.5, 0.15
    seeds = seeds_needed(effect, deviation, shared)
    assert seeds is not None
    rng = np.random.default_rng(1)

    def power(count: int) -> float:
        found = []
        for _ in range(1500):
            d = effect + shared * rng.normal() + deviation * rng.normal(size=count)
            p = crossed(d.tolist(), np.full((count, count), shared**2)).p_value
            found.append(p is not None and p < 0.05)
        return float(np.mean(found))

    assert power(seeds) > 0.75
    assert power(seeds - 1) < power(seeds)


def test_without_an_error_of_images_it_is_the_paired_t_test():
    seeds = seeds_needed(0.6, 0.4)
    assert seeds is not None
    assert smallest_detectable(0.4 / seeds**0.5, seeds - 1) <= 0.6
    assert smallest_detectable(0.4 / (seeds - 1) ** 0.5, seeds - 2) > 0.6


def test_what_the_images_hide_no_number_of_seeds_shows():
    assert seeds_needed(0.4, 0.3, 0.2) is None
    assert seeds_needed(5.0, 0.3, 0.2) == 2


def test_numbers_out_of_range_are_named():
    with pytest.raises(ValueError, match="seeds=1"):
        deviation_bound(0.4, 1)
    with pytest.raises(ValueError, match="effect=0"):
        seeds_needed(0, 0.4)
    with pytest.raises(ValueError, match="deviation=nan"):
        seeds_needed(1, float("nan"))
