"""The demo's sentences follow from the numbers, and do not take noise for an effect."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from sign_ext.experiments.demo.comparison import (
    BASELINES,
    CONDITIONS,
    BaselineComparison,
    Difference,
    compare,
)
from sign_ext.report.schema import Cell, Row
from sign_ext.report.verdict import compare_rows


def one(
    sign: float, same_epochs: float, same_steps: float, images: int = 1000
) -> BaselineComparison:
    """Compare constant accuracies in all conditions."""
    values = {"sign": sign, "classical": same_epochs, "classical_same_steps": same_steps}
    return compare([{m: dict.fromkeys(CONDITIONS, v) for m, v in values.items()}], images)


def test_difference_and_noise_are_as_defined() -> None:
    found = one(0.9, 0.8, 0.89, images=400)
    assert len(found.differences) == len(CONDITIONS) * len(BASELINES)
    by_baseline = {d.baseline: d for d in found.differences if d.condition == "accuracy"}
    expected = 2 * math.sqrt((0.9 * 0.1 + 0.8 * 0.2) / 400)
    assert by_baseline["classical"].difference == pytest.approx(0.1)
    assert by_baseline["classical"].noise == pytest.approx(expected)
    assert by_baseline["classical"].verdict == "better"
    assert by_baseline["classical_same_steps"].verdict == "undecided"


def over_seeds(
    sign: Sequence[float], same_epochs: Sequence[float], same_steps: Sequence[float], images: int
) -> tuple[BaselineComparison, dict[str, Difference]]:
    """Compare accuracies of several seeds, the same in all conditions: all, and by baseline."""
    accuracies = {"sign": sign, "classical": same_epochs, "classical_same_steps": same_steps}
    runs = [
        {m: dict.fromkeys(CONDITIONS, values[i]) for m, values in accuracies.items()}
        for i in range(len(sign))
    ]
    found = compare(runs, images)
    return found, {d.baseline: d for d in found.differences if d.condition == "noise_mean"}


def test_spread_over_seeds_adds_to_the_noise() -> None:
    sign, steady, spread = np.array([[0.9, 0.8, 0.85], [0.8, 0.701, 0.749], [0.65, 0.85, 0.75]])
    _, found = over_seeds(sign, steady, spread, 1000)
    test_errors = 2 * math.sqrt((0.85 * 0.15 + 0.75 * 0.25) / 1000)
    for baseline, values in (("classical", steady), ("classical_same_steps", spread)):
        interval = stats.ttest_rel(sign, values).confidence_interval(0.95)
        half = (interval.high - interval.low) / 2
        assert found[baseline].noise == pytest.approx(max(half, test_errors))
        assert found[baseline].difference == pytest.approx(0.1)
    # The same ten points: where every seed shows them they count, where seeds disagree they do not.
    assert found["classical"].noise == pytest.approx(test_errors)
    assert found["classical"].verdict == "better"
    assert found["classical_same_steps"].noise > 2 * test_errors
    assert found["classical_same_steps"].verdict == "undecided"


def test_the_verdict_is_that_of_the_tables(rng: np.random.Generator) -> None:
    for images in (50, 5000):
        sign, other = rng.uniform(0.6, 0.9, (2, 4))
        _, found = over_seeds(sign, other, sign - 0.1, images)
        rows = (Row("", "", {"a": Cell(tuple(values))}) for values in (sign, other))
        wanted = compare_rows("a", *rows, images=images, kind="share").verdict
        assert found["classical"].verdict == wanted
        beyond = abs(found["classical"].difference) > found["classical"].noise
        assert beyond == (wanted != "undecided")


def test_equal_differences_decide_nothing_and_are_not_called_noise() -> None:
    comparison, found = over_seeds((0.9, 0.8), (0.4, 0.3), (0.9, 0.8), 400)
    assert found["classical"].verdict == "undecided"
    assert "+50.0 points, undecided, noise ±" in comparison.sentences[0]
    assert "(0.0 points, within noise, ±" in comparison.sentences[0]


@pytest.mark.parametrize(
    ("accuracies", "says", "not_says"),
    [
        ((0.9, 0.9, 0.9), "no difference that this test set can show", "helped"),
        ((0.95, 0.8, 0.8), "helped on clean images, 50 pixels off and Gaussian noise", "worse"),
        ((0.7, 0.9, 0.9), "did not help: it was worse on clean images", "helped"),
        ((0.95, 0.8, 0.95), "that may be due to the number of updates alone", "helped"),
    ],
)
def test_headline(accuracies: tuple[float, float, float], says: str, not_says: str) -> None:
    headline = one(*accuracies).headline
    assert says in headline
    assert not_says not in headline.split(".")[0]


def test_headline_with_both_directions() -> None:
    run = {
        "sign": {"accuracy": 0.9, "pixels_off_mean": 0.5, "noise_mean": 0.7},
        "classical": {"accuracy": 0.8, "pixels_off_mean": 0.7, "noise_mean": 0.7},
        "classical_same_steps": {"accuracy": 0.8, "pixels_off_mean": 0.7, "noise_mean": 0.7},
    }
    assert "helped on clean images and hurt on 50 pixels off." in compare([run], 1000).headline


def test_sentences_hold_the_numbers() -> None:
    first, *_, caveat = one(0.912, 0.834, 0.956, images=100).sentences
    for number in ("91.2%", "83.4%", "95.6%", "+7.8 points", "−4.4 points"):
        assert number in first
    assert "One seed" in caveat
    assert "standard error of 2.8 points" in caveat  # √(0.912·0.088/100)
