"""The honest sentence: it follows from the numbers, and noise is told from effect."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sign_ext.experiments.comparison import BASELINES, CONDITIONS, Comparison, compare


def one(sign: float, same_epochs: float, same_steps: float, images: int = 1000) -> Comparison:
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


def test_spread_over_seeds_adds_to_the_noise() -> None:
    accuracies = {
        "sign": [0.9, 0.8, 0.85],
        "classical": [0.5, 0.5, 0.5],
        "classical_same_steps": [0.7, 0.9, 0.8],
    }
    runs = [
        {m: dict.fromkeys(CONDITIONS, values[i]) for m, values in accuracies.items()}
        for i in range(3)
    ]
    found = {d.baseline: d for d in compare(runs, 200).differences if d.condition == "noise_mean"}
    variance = sum(
        np.mean(values) * (1 - np.mean(values)) / 200 + np.var(values, ddof=1) / 3
        for values in (accuracies["sign"], accuracies["classical_same_steps"])
    )
    assert found["classical_same_steps"].noise == pytest.approx(2 * math.sqrt(variance))


@pytest.mark.parametrize(
    ("accuracies", "says", "not_says"),
    [
        ((0.9, 0.9, 0.9), "no difference that this test set can show", "helped"),
        ((0.95, 0.8, 0.8), "helped on clean images, 50 pixels off and Gaussian noise", "worse"),
        ((0.7, 0.9, 0.9), "did not help: it was worse on clean images", "helped"),
        ((0.95, 0.8, 0.95), "the number of updates alone explains that", "helped"),
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
