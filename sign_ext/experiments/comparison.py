"""Did SIGN help? Differences to the classical baselines, and how large noise is, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sign_ext.report.numbers import binomial_error, mean_and_deviation, percent

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
        noise: Two standard errors of that difference; a smaller one tells nothing.
        verdict: "better", "worse" or "undecided".
    """

    condition: str
    baseline: str
    difference: float
    noise: float
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """All differences, one headline and the sentences below it."""

    differences: tuple[Difference, ...]
    headline: str
    sentences: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def compare(runs: Sequence[dict[str, dict[str, Any]]], images: int) -> Comparison:
    """Compare SIGN with both classical baselines.

    The noise of a difference has two parts: the finite test set (binomial; the two methods see
    the same images, so this over- rather than understates it) and, with several runs, their
    spread. Two standard errors are about a 95% interval.

    Args:
        runs: One dict a seed: method → evaluation with the keys of CONDITIONS.
        images: Number of test images.

    Returns:
        The differences and what they say.
    """
    differences = tuple(
        _difference(runs, images, condition, baseline)
        for condition in CONDITIONS
        for baseline in BASELINES
    )
    sentences = tuple(_sentence(runs, differences, condition) for condition in CONDITIONS)
    return Comparison(differences, _headline(differences), (*sentences, _caveat(runs, images)))


def _difference(
    runs: Sequence[dict[str, dict[str, Any]]], images: int, condition: str, baseline: str
) -> Difference:
    sign, sign_spread = mean_and_deviation([run["sign"][condition] for run in runs])
    other, other_spread = mean_and_deviation([run[baseline][condition] for run in runs])
    variance = binomial_error(sign, images) ** 2 + binomial_error(other, images) ** 2
    variance += (sign_spread**2 + other_spread**2) / len(runs)
    noise = 2 * math.sqrt(variance)
    difference = sign - other
    verdict = "undecided"
    if abs(difference) > noise:
        verdict = "better" if difference > 0 else "worse"
    return Difference(condition, baseline, difference, noise, verdict)


def _headline(differences: Sequence[Difference]) -> str:
    """Judge by the baseline with as many gradient steps, which isolates the method."""
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
    told = f"with as many gradient steps, {_outcome(fair['better'], fair['worse'])}."
    if verdicts["classical"]["better"] and not fair["better"]:
        better = _list(verdicts["classical"]["better"])
        return (
            f"Against classical training {told} With as many epochs only, which are fewer updates, "
            f"classical training was worse on {better}; the number of updates alone explains that."
        )
    return f"Against classical training {told}"


def _outcome(better: list[str], worse: list[str]) -> str:
    if better and worse:
        return f"SIGN helped on {_list(better)} and hurt on {_list(worse)}"
    if better:
        return f"SIGN helped on {_list(better)}"
    if worse:
        return f"SIGN did not help: it was worse on {_list(worse)}"
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
        meaning = "within noise," if d.verdict == "undecided" else f"{d.verdict}, noise"
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
            f"One seed: another one moves these numbers too, by an amount not measured here. "
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


def _list(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"
