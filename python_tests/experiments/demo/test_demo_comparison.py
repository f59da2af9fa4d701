"""The demo's sentences follow from the numbers, and do not take noise for an effect."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from sign_ext.evaluation.answers import Answers
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
    assert "+50.0 points, 95% interval +44.0 to +56.0, undecided)" in comparison.sentences[0]
    assert "(0.0 points, 95% interval −5.0 to +5.0, within noise)" in comparison.sentences[0]


@pytest.mark.parametrize(
    ("accuracies", "says", "not_says", "means"),
    [
        ((0.9, 0.9, 0.9), "no difference that this test set can show", "helped", "as further"),
        (
            (0.95, 0.8, 0.8),
            "helped on clean images, 50 pixels off and Gaussian noise",
            "worse",
            "made a better network than the originals alone",
        ),
        ((0.7, 0.9, 0.9), "did not help: it was worse on clean", "helped", "originals alone made"),
        ((0.95, 0.8, 0.95), "no difference", "helped", "due to the number of updates alone"),
    ],
)
def test_headline(
    accuracies: tuple[float, float, float], says: str, not_says: str, means: str
) -> None:
    found = one(*accuracies)
    assert says in found.headline
    assert not_says not in found.headline
    assert means in found.meaning
    assert "--seeds 3" in found.meaning


def test_the_headline_is_a_sentence_with_the_interval_on_clean_images() -> None:
    found = one(0.9, 0.5, 0.85, images=400)
    half = 200 * math.sqrt((0.9 * 0.1 + 0.85 * 0.15) / 400)
    assert "+5.0 points on clean images" in found.headline
    assert f"(95% interval +{5 - half:.1f} to +{5 + half:.1f})." in found.headline


def test_answers_are_paired_by_image(rng: np.random.Generator) -> None:
    """Two networks that agree but for a few images: the interval is of those few, not of all."""
    images = 400
    other = rng.random(images) < 0.6
    sign = other.copy()
    sign[np.flatnonzero(~other)[:30]] = True  # right where the other is wrong, never reverse
    answers = {
        name: Answers({"correct": right, "pixels_off": 2 * right.astype(np.uint8)}, 2)
        for name, right in (("sign", sign), ("classical", other), ("classical_same_steps", other))
    }
    for each in answers.values():
        each.values["noise"] = each.values["pixels_off"]
    run = {
        name: dict.fromkeys(CONDITIONS, float(each.values["correct"].mean()))
        for name, each in answers.items()
    }
    (paired, *_), (unpaired, *_) = (
        compare([run], images, kept).differences for kept in ([answers], None)
    )
    gained = sign.astype(float) - other
    exact = gained.std() / math.sqrt(images)
    assert paired.difference == unpaired.difference == pytest.approx(30 / images)
    assert paired.low == pytest.approx(paired.difference - 1.96 * exact, abs=0.3 * exact)
    assert paired.high == pytest.approx(paired.difference + 1.96 * exact, abs=0.3 * exact)
    assert paired.verdict == "better"
    assert paired.noise < 0.6 * unpaired.noise


def test_headline_with_both_directions() -> None:
    run = {
        "sign": {"accuracy": 0.9, "pixels_off_mean": 0.5, "noise_mean": 0.7},
        "classical": {"accuracy": 0.8, "pixels_off_mean": 0.7, "noise_mean": 0.7},
        "classical_same_steps": {"accuracy": 0.8, "pixels_off_mean": 0.7, "noise_mean": 0.7},
    }
    assert "helped on clean images and hurt on 50 pixels off:" in compare([run], 1000).headline
    assert "lost on others" in compare([run], 1000).meaning


def test_sentences_hold_the_numbers() -> None:
    first, *_, caveat = one(0.912, 0.834, 0.956, images=100).sentences
    for number in ("91.2%", "83.4%", "95.6%", "+7.8 points", "−4.4 points"):
        assert number in first
    assert "One seed" in caveat
    assert "standard error of 2.8 points" in caveat  # √(0.912·0.088/100)
