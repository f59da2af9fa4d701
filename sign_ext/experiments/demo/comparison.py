"""Did SIGN help? Its differences to the classical baselines and their noise, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sign_ext.formatting import binomial_error, listed, mean_and_deviation, percent
from sign_ext.report.schema import Cell, Row
from sign_ext.report.verdict import TEST_ERRORS, compare_rows

CONDITIONS = {
    "accuracy": "clean images",
    "pixels_off_mean": "50 pixels off",
    "noise_mean": "Gaussian noise",
}
BASELINES = {"classical": "as many epochs", "classical_same_steps": "as many gradient steps"}


@dataclass(frozen=True)
class Difference:
    """SIGN minus a baseline in one condition.

    Attributes:
        condition: A key of CONDITIONS.
        baseline: A key of BASELINES.
        difference: Accuracy of SIGN minus that of the baseline, −1 to 1, mean over seeds.
        noise: What a difference must exceed to count: two standard errors of the test set, or
            half the 95% interval over seeds where that is wider.
        verdict: "better", "worse" or "undecided".
    """

    condition: str
    baseline: str
    difference: float
    noise: float
    verdict: str


@dataclass(frozen=True)
class BaselineComparison:
    """SIGN against both baselines: all differences, a headline and the sentences below it."""

    differences: tuple[Difference, ...]
    headline: str
    sentences: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def compare(runs: Sequence[dict[str, dict[str, Any]]], images: int) -> BaselineComparison:
    """Compare SIGN with both classical baselines.

    The verdicts are those of `compare_rows`: a difference must exceed two standard errors of the
    finite test set and, with several runs, half the 95% interval of their paired differences.

    Args:
        runs: One dict a seed: method → evaluation with the keys of CONDITIONS.
        images: Number of test images.

    Returns:
        The differences, and sentences about them.
    """
    differences = tuple(
        _difference(runs, images, condition, baseline)
        for condition in CONDITIONS
        for baseline in BASELINES
    )
    sentences = tuple(_sentence(runs, differences, condition) for condition in CONDITIONS)
    return BaselineComparison(
        differences, _headline(differences), (*sentences, _caveat(runs, images))
    )


def _difference(
    runs: Sequence[dict[str, dict[str, Any]]], images: int, condition: str, baseline: str
) -> Difference:
    sign, other = (
        Row(method, "", {condition: Cell(tuple(run[method][condition] for run in runs))})
        for method in ("sign", baseline)
    )
    comparison = compare_rows(condition, sign, other, images=images, kind="share")
    assert comparison.test_error is not None  # every share of a finite test set has one
    noise = TEST_ERRORS * comparison.test_error
    if comparison.low is not None and comparison.high is not None:
        noise = max(noise, (comparison.high - comparison.low) / 2)
    return Difference(condition, baseline, comparison.difference, noise, comparison.verdict)


def _headline(differences: Sequence[Difference]) -> str:
    """Judge by the baseline with as many gradient steps, which isolates SIGN's effect."""
    verdicts = {
        baseline: {
            verdict: [
                CONDITIONS[d.condition]
                for d in differences
                if (d.baseline, d.verdict) == (baseline, verdict)
            ]
            for verdict in ("better", "worse")
        }
        for baseline in BASELINES
    }
    fair = verdicts["classical_same_steps"]
    sentence = (
        "Against classical training with as many gradient steps, "
        f"{_effect(fair['better'], fair['worse'])}."
    )
    if verdicts["classical"]["better"] and not fair["better"]:
        better = listed(verdicts["classical"]["better"])
        return (
            f"{sentence} With as many epochs only, which are fewer updates, classical training "
            f"was worse on {better}; that may be due to the number of updates alone."
        )
    return sentence


def _effect(better: list[str], worse: list[str]) -> str:
    if better and worse:
        return f"SIGN helped on {listed(better)} and hurt on {listed(worse)}"
    if better:
        return f"SIGN helped on {listed(better)}"
    if worse:
        return f"SIGN did not help: it was worse on {listed(worse)}"
    return "SIGN made no difference that this test set can show"


def _sentence(
    runs: Sequence[dict[str, dict[str, Any]]], differences: Sequence[Difference], condition: str
) -> str:
    sign, _ = mean_and_deviation([run["sign"][condition] for run in runs])
    parts = []
    for d in differences:
        if d.condition != condition:
            continue
        other, _ = mean_and_deviation([run[d.baseline][condition] for run in runs])
        # Seeds with equal differences have no interval, so a larger difference can be undecided.
        meaning = "within noise," if abs(d.difference) <= d.noise else f"{d.verdict}, noise"
        parts.append(
            f"{percent(other)}% with {BASELINES[d.baseline]} "
            f"({_signed(d.difference)} points, {meaning} ±{percent(d.noise)})"
        )
    name = CONDITIONS[condition]
    return f"{name[0].upper()}{name[1:]}: SIGN {percent(sign)}%; classical {', '.join(parts)}."


def _caveat(runs: Sequence[dict[str, dict[str, Any]]], images: int) -> str:
    accuracy, _ = mean_and_deviation([run["sign"]["accuracy"] for run in runs])
    error = percent(binomial_error(accuracy, images))
    if len(runs) == 1:
        return (
            f"One seed: another one would change these numbers, by an amount not measured here. "
            f"{images:,} test images alone give a standard error of {error} points; "
            f"run with --seeds 3 or more to see the spread."
        )
    return (
        f"{len(runs)} seeds (initial weights, batch order, augmentation); {images:,} test images "
        f"give a standard error of {error} points, which more seeds do not lower."
    )


def _signed(difference: float) -> str:
    points = 100 * difference
    return f"{'−' if points < -0.05 else '+' if points > 0.05 else ''}{abs(points):.1f}"
