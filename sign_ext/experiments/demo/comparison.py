"""Did SIGN help? Its differences to the classical baselines and their noise, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sign_ext.evaluation.answers import Answers
from sign_ext.formatting import binomial_error, listed, mean_and_deviation, percent
from sign_ext.report.schema import Cell, Row
from sign_ext.report.verdict import TEST_ERRORS, compare_rows

CONDITIONS = {
    "accuracy": "clean images",
    "pixels_off_mean": "50 pixels off",
    "noise_mean": "Gaussian noise",
}
# The values of each image behind a condition, by their name in `Answers`.
KEPT = {"accuracy": "correct", "pixels_off_mean": "pixels_off", "noise_mean": "noise"}
FAIR = "classical_same_steps"
BASELINES = {"classical": "as many epochs", "classical_same_steps": "as many gradient steps"}


@dataclass(frozen=True)
class Difference:
    """SIGN minus a baseline in one condition.

    Attributes:
        condition: A key of CONDITIONS.
        baseline: A key of BASELINES.
        difference: Accuracy of SIGN minus that of the baseline, −1 to 1, mean over seeds.
        low: Lower end of the 95% interval of the difference.
        high: Its upper end.
        verdict: "better", "worse" or "undecided".
    """

    condition: str
    baseline: str
    difference: float
    low: float
    high: float
    verdict: str

    @property
    def noise(self) -> float:
        """Half the interval: what a difference must exceed to count."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class BaselineComparison:
    """SIGN against both baselines.

    Attributes:
        differences: All of them.
        headline: The verdict, with its interval.
        meaning: What it means for whoever trains a network.
        sentences: The numbers of each condition, and what limits them.
    """

    differences: tuple[Difference, ...]
    headline: str
    meaning: str
    sentences: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def compare(
    runs: Sequence[dict[str, dict[str, Any]]],
    images: int,
    answers: Sequence[Mapping[str, Answers]] | None = None,
) -> BaselineComparison:
    """Compare SIGN with both classical baselines.

    With the networks' answers, the difference is paired image by image: the interval over several
    seeds and the verdict are those of `compare_rows`; that of one seed is the bootstrap's over
    images, and the verdict whether it excludes 0, which holds for these networks. Without answers,
    the interval is two standard errors of the test set, or the 95% interval of the paired
    differences of several seeds where that is wider.

    Args:
        runs: One dict a seed: method → evaluation with the keys of CONDITIONS.
        images: Number of test images.
        answers: One dict a seed: method → its answer to each test image.

    Returns:
        The differences, and sentences about them.
    """
    differences = tuple(
        _difference(runs, images, answers, condition, baseline)
        for condition in CONDITIONS
        for baseline in BASELINES
    )
    sentences = tuple(_sentence(runs, differences, condition) for condition in CONDITIONS)
    return BaselineComparison(
        differences,
        _headline(differences),
        _meaning(differences, len(runs)),
        (*sentences, _caveat(runs, images)),
    )


def _difference(
    runs: Sequence[dict[str, dict[str, Any]]],
    images: int,
    answers: Sequence[Mapping[str, Answers]] | None,
    condition: str,
    baseline: str,
) -> Difference:
    def row(method: str) -> Row:
        kept = (
            [] if answers is None else [each[method].samples(KEPT[condition]) for each in answers]
        )
        samples = tuple(each.to_text() for each in kept if each is not None)
        return Row(
            method,
            "",
            {condition: Cell(tuple(run[method][condition] for run in runs), samples=samples)},
        )

    found = compare_rows(condition, row("sign"), row(baseline), images=images, kind="share")
    low, high, verdict = found.low, found.high, found.verdict
    if found.paired_by != "images":
        assert found.test_error is not None  # every share of a finite test set has one
        noise = TEST_ERRORS * found.test_error
        if low is not None and high is not None:
            noise = max(noise, (high - low) / 2)
        low, high = found.difference - noise, found.difference + noise
    elif low is None or high is None:
        low, high = found.bootstrap_low, found.bootstrap_high
        assert low is not None
        assert high is not None
        verdict = "better" if low > 0 else "worse" if high < 0 else "undecided"
    return Difference(condition, baseline, found.difference, low, high, verdict)


def _headline(differences: Sequence[Difference]) -> str:
    """Judge by the baseline with as many gradient steps, which isolates SIGN's effect."""
    fair = [each for each in differences if each.baseline == FAIR]
    better, worse = (
        [CONDITIONS[each.condition] for each in fair if each.verdict == verdict]
        for verdict in ("better", "worse")
    )
    (clean,) = (each for each in fair if each.condition == "accuracy")
    return (
        f"{_effect(better, worse)}: {_signed(clean.difference)} points on clean "
        "images against classical training with as many gradient steps (95% interval "
        f"{_signed(clean.low)} to {_signed(clean.high)})."
    )


def _meaning(differences: Sequence[Difference], seeds: int) -> str:
    """Say what the comparison at equal effort means in practice."""
    fair = [each for each in differences if each.baseline == FAIR]
    verdicts = {each.verdict for each in fair}
    if {"better", "worse"} <= verdicts:
        meaning = "What SIGN gained on some images it lost on others."
    elif "better" in verdicts:
        meaning = (
            "For the same training effort, originals and changed images together made a better "
            "network than the originals alone."
        )
    elif "worse" in verdicts:
        meaning = (
            "For the same training effort, the originals alone made a better network: the changed "
            "images did not earn their place."
        )
    else:
        points = 100 * max(each.noise for each in fair)
        meaning = (
            "For the same training effort, the changed images were worth about as much as further "
            f"passes over the originals; effects below about {points:.0f} points cannot be seen "
            "here."
        )
    by_epochs = [
        CONDITIONS[each.condition]
        for each in differences
        if (each.baseline, each.verdict) == ("classical", "better")
    ]
    if by_epochs and "better" not in verdicts:
        meaning += (
            " With as many epochs only, which are fewer updates, classical training was worse on "
            f"{listed(by_epochs)}; that may be due to the number of updates alone."
        )
    if seeds == 1:
        meaning += " This compares two networks; --seeds 3 compares the methods."
    return meaning


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
        meaning = "within noise" if d.low <= 0 <= d.high else d.verdict
        parts.append(
            f"{percent(other)}% with {BASELINES[d.baseline]} ({_signed(d.difference)} points, "
            f"95% interval {_signed(d.low)} to {_signed(d.high)}, {meaning})"
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
