"""The rule that decides whether one method is better than another in a column of a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

from sign_ext.evaluation.crossed import Verdict, crossed, decide
from sign_ext.evaluation.paired import LEVEL, complete_pairs, holm, paired
from sign_ext.evaluation.samples import Samples, hierarchical_bootstrap, image_covariance
from sign_ext.formatting import binomial_error
from sign_ext.report.schema import (
    Cell,
    Column,
    Comparison,
    Experiment,
    Family,
    Kind,
    Results,
    Row,
    Table,
)

TEST_ERRORS = 2  # standard errors of the test set that a difference must exceed, without samples
Summarize = Callable[[Table], Sequence[str]]
FAMILIES: tuple[Family, ...] = ("primary", "secondary")


def compare_rows(
    column: str,
    method_row: Row,
    baseline_row: Row,
    *,
    images: int | None,
    kind: Kind,
    higher_is_better: bool = True,
    margin: float | None = None,
    family: Family = "",
) -> Comparison:
    """Compare two rows of a table in one column, seed by seed, and judge.

    Where the cells keep the values of each image, errors are paired by image: `evaluation.crossed`
    estimates what seeds and images, drawn anew, would do to the difference, and `evaluation.decide`
    judges: "better" or "worse" if p < 0.05, otherwise "no difference" if the difference lies
    within ±margin by two one-sided tests, otherwise "undecided". One seed is always undecided: it
    compares two networks, not two methods. Beside it stand the bootstrap over seeds and images and
    the paired t-test over seeds.

    Where a cell lacks them, as in results of earlier versions, `old_verdict` judges.

    Args:
        column: the column's key.
        method_row: the row that is judged.
        baseline_row: the row it is compared with, with the same seeds.
        images: number of test images that the column's shares were counted on; None if they are
            not such shares (an area under the curve, for example).
        kind: the column's; `images` is used for "share" only.
        higher_is_better: False for uncertainties, calibration errors and the like.
        margin: the smallest difference that matters; None if none is stated.
        family: to which the comparison belongs; `hold_families` adjusts its p-value.

    Returns:
        All numbers of the comparison, with the verdict, before any adjustment.

    Raises:
        ValueError: a row lacks the column, no seed has both values, there are no test images,
            shares are outside 0–1, or samples do not give the cells' values.

    Example:
        >>> from sign_ext.report.schema import Cell
        >>> sign = Row("SIGN", "", {"accuracy": Cell((0.91, 0.93, 0.92))})
        >>> mixup = Row("mixup", "", {"accuracy": Cell((0.84, 0.85, 0.86))})
        >>> compare_rows("accuracy", sign, mixup, images=1000, kind="share").verdict
        'better'
    """
    for row in (method_row, baseline_row):
        if column not in row.cells:
            raise ValueError(
                f"row {row.label!r} has no column {column!r}; it has {', '.join(row.cells)}."
            )
    cells = method_row.cells[column], baseline_row.cells[column]
    values = cells[0].values, cells[1].values
    found = paired(*values)
    test_error = None
    if images is not None and kind == "share":
        test_error = _test_error(complete_pairs(*values), images)
    told = Comparison(
        column=column,
        group=method_row.group,
        method=method_row.label,
        baseline=baseline_row.label,
        baseline_group=baseline_row.group,
        difference=found.difference,
        deviation=found.deviation,
        p_value=found.p_value,
        low=found.low,
        high=found.high,
        detectable=found.detectable,
        test_error=test_error,
        seeds=found.pairs,
        verdict=old_verdict(
            found.difference if higher_is_better else -found.difference,
            found.pairs,
            found.p_value,
            test_error,
        ),
        margin=margin,
        family=family,
    )
    samples = kept_samples(method_row.label, cells[0], baseline_row.label, cells[1])
    return told if samples is None else _by_images(told, *samples, higher_is_better)


Kept = list[tuple[float, Samples]]


def _by_images(
    told: Comparison, method: Kept, baseline: Kept, higher_is_better: bool
) -> Comparison:
    """Replace what a comparison by seeds alone says by what pairing the images shows."""
    differences = [a - b for (a, _), (b, _) in zip(method, baseline, strict=True)]
    of_method, of_baseline = ([each for _, each in side] for side in (method, baseline))
    found = crossed(differences, image_covariance(of_method, of_baseline))
    ends = hierarchical_bootstrap(differences, of_method, of_baseline)
    interval = found.interval() or (None, None)
    equivalence = None if told.margin is None else found.equivalence(told.margin)
    return replace(
        told,
        p_value=found.p_value,
        low=interval[0],
        high=interval[1],
        detectable=found.detectable(),
        test_error=found.image_error,
        verdict=decide(
            found.difference, found.p_value, equivalence, higher_is_better=higher_is_better
        ),
        paired_by="images",
        seed_error=found.seed_error,
        bootstrap_low=ends[0],
        bootstrap_high=ends[1],
        t_p_value=told.p_value,
        equivalence=equivalence,
    )


def kept_samples(
    method: str, method_cell: Cell, baseline: str, baseline_cell: Cell
) -> tuple[Kept, Kept] | None:
    """Return value and samples of the seeds that have both values; None if any lacks samples.

    Args:
        method, baseline: labels, for messages.
        method_cell, baseline_cell: with the same seeds.

    Raises:
        ValueError: samples do not give the cells' values.
    """
    cells = ((method, method_cell), (baseline, baseline_cell))
    if any(len(cell.samples) != len(cell.values) for _, cell in cells):
        return None
    sides: tuple[Kept, Kept] = ([], [])
    for seed, values in enumerate(zip(method_cell.values, baseline_cell.values, strict=True)):
        if any(value is None or not math.isfinite(value) for value in values):
            continue
        for (label, cell), side, value in zip(cells, sides, values, strict=True):
            if not cell.samples[seed]:
                return None
            samples = Samples.from_text(cell.samples[seed])
            _check(label, samples, float(value or 0.0))
            side.append((float(value or 0.0), samples))
    return sides


def _check(label: str, samples: Samples, value: float) -> None:
    """Raise unless the samples are those that the value was computed from."""
    if samples.statistic == "replicates":
        return
    again = samples.value()
    if not abs(again - value) <= 1e-3 * max(abs(value), 1e-3):
        raise ValueError(
            f"row {label!r} has {value!r}, but its images give {again!r}: they belong to other "
            "results. Reproduce again."
        )


def hold_families(results: Results, summarize: Summarize | None = None) -> Results:
    """Adjust the p-values of each family by Holm's procedure, over all tables, and judge again.

    The verdicts "better" and "worse" of a family are then all right with a probability of at
    least 95%, and so are its verdicts "no difference": the two kinds are adjusted separately.
    Comparisons of no family keep theirs.

    Args:
        results: with comparisons as `compare_rows` makes them.
        summarize: writes the findings of a table again whose verdicts may have changed; None keeps
            the findings.
    """
    places = [
        (i, j, k, comparison)
        for i, experiment in enumerate(results.experiments)
        for j, table in enumerate(experiment.tables)
        for k, comparison in enumerate(table.comparisons)
    ]
    held: dict[tuple[int, int, int], tuple[float | None, float | None]] = {}
    for family in FAMILIES:
        members = [place for place in places if place[3].family == family]
        adjusted = holm([each.p_value for *_, each in members])
        equivalence = holm([each.equivalence for *_, each in members])
        held |= {
            (i, j, k): pair
            for (i, j, k, _), pair in zip(
                members, zip(adjusted, equivalence, strict=True), strict=True
            )
        }
    if not held:
        return results

    def hold(i: int, experiment: Experiment) -> Experiment:
        tables = tuple(
            replace(
                table,
                comparisons=tuple(
                    _held(each, *held[i, j, k], table.columns) if (i, j, k) in held else each
                    for k, each in enumerate(table.comparisons)
                ),
            )
            for j, table in enumerate(experiment.tables)
        )
        findings = experiment.findings
        if summarize is not None and any(place[:1] == (i,) for place in held):
            findings = tuple(
                each for table in tables if table.comparisons for each in summarize(table)
            )
        return replace(experiment, tables=tables, findings=findings)

    experiments = tuple(hold(i, each) for i, each in enumerate(results.experiments))
    return replace(results, experiments=experiments)


def _held(
    told: Comparison,
    adjusted: float | None,
    equivalence: float | None,
    columns: tuple[Column, ...],
) -> Comparison:
    told = replace(told, adjusted=adjusted, adjusted_equivalence=equivalence)
    (column,) = (each for each in columns if each.key == told.column)
    gain = told.difference if column.higher_is_better else -told.difference
    if told.paired_by == "images":
        verdict = decide(gain, adjusted, equivalence)
    else:
        verdict = old_verdict(gain, told.seeds, adjusted, told.test_error)
    return replace(told, verdict=verdict)


def _test_error(pairs: list[tuple[float, float]], images: int) -> float:
    if images < 1:
        raise ValueError(f"images={images}; accepted: 1 or more, or None.")
    if any(not 0 <= value <= 1 for pair in pairs for value in pair):
        raise ValueError(
            "shares of test images lie in 0–1; pass images=None for a column that holds others."
        )
    method, baseline = (statistics.fmean(values) for values in zip(*pairs, strict=True))
    return math.hypot(binomial_error(method, images), binomial_error(baseline, images))


def old_verdict(
    gain: float, seeds: int, p_value: float | None, test_error: float | None
) -> Verdict:
    """Judge a difference of which no image's value was kept.

    It must be significant against two sources of chance. Seeds: the paired t-test's p-value must be
    below 0.05. The test set: the difference must exceed two standard errors
    √(a(1−a)/n + b(1−b)/n) of accuracies a and b on n images. All seeds share one test set, so more
    seeds do not lower that error. Both methods see the same images, so treating them as
    independent overestimates it, often by much. With one seed, only the test set's error can be
    checked. With several seeds whose differences are all equal, there is no t-test, and the verdict
    is "undecided".

    Args:
        gain: the difference, above 0 if the method is better.
        seeds: how many.
        p_value: of the paired t-test.
        test_error: standard error from the test set; None if the column is no share of it.
    """
    by_seeds = p_value is not None and p_value < LEVEL
    by_images = test_error is not None and abs(gain) > TEST_ERRORS * test_error
    decided = by_images if seeds == 1 else by_seeds and (by_images or test_error is None)
    if not decided:
        return "undecided"
    return "better" if gain > 0 else "worse"
