"""The rule that decides whether one method is better than another in a column of a table."""

from __future__ import annotations

import math
import statistics
from typing import Literal

from sign_ext.evaluation.paired import LEVEL, complete_pairs, paired
from sign_ext.formatting import binomial_error
from sign_ext.report.schema import Comparison, Kind, Row

TEST_ERRORS = 2  # standard errors of the test set that a difference must exceed


def compare_rows(
    column: str,
    method_row: Row,
    baseline_row: Row,
    *,
    images: int | None,
    kind: Kind,
    higher_is_better: bool = True,
) -> Comparison:
    """Compare two rows of a table in one column, seed by seed, and judge.

    A difference must be significant against two sources of chance. Seeds: the paired t-test's
    p-value must be below 0.05. The test set: the difference must exceed two standard errors
    √(a(1−a)/n + b(1−b)/n) of accuracies a and b on n images. All seeds share one test set, so more
    seeds do not lower that error. Both methods see the same images, so treating them as
    independent overestimates it rather than underestimates it. With one seed, only the test set's
    error can be checked. With several seeds whose differences are all equal, there is no t-test,
    and the verdict is "undecided".

    Args:
        column: the column's key.
        method_row: the row that is judged.
        baseline_row: the row it is compared with, with the same seeds.
        images: number of test images that the column's shares were counted on; None if they are
            not such shares (an area under the curve, for example).
        kind: the column's; `images` is used for "share" only.
        higher_is_better: False for uncertainties, calibration errors and the like.

    Returns:
        All numbers of the comparison, with the verdict. The p-value is not adjusted for the number
        of comparisons (`holm` does that).

    Raises:
        ValueError: a row lacks the column, no seed has both values, there are no test images, or
            shares are outside 0–1.

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
    values = method_row.cells[column].values, baseline_row.cells[column].values
    found = paired(*values)
    test_error = None
    if images is not None and kind == "share":
        test_error = _test_error(complete_pairs(*values), images)
    return Comparison(
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
        verdict=_verdict(
            found.difference if higher_is_better else -found.difference,
            found.pairs,
            found.p_value,
            test_error,
        ),
    )


def _test_error(pairs: list[tuple[float, float]], images: int) -> float:
    if images < 1:
        raise ValueError(f"images={images}; accepted: 1 or more, or None.")
    if any(not 0 <= value <= 1 for pair in pairs for value in pair):
        raise ValueError(
            "shares of test images lie in 0–1; pass images=None for a column that holds others."
        )
    method, baseline = (statistics.fmean(values) for values in zip(*pairs, strict=True))
    return math.hypot(binomial_error(method, images), binomial_error(baseline, images))


def _verdict(
    gain: float, seeds: int, p_value: float | None, test_error: float | None
) -> Literal["better", "worse", "undecided"]:
    by_seeds = p_value is not None and p_value < LEVEL
    by_images = test_error is not None and abs(gain) > TEST_ERRORS * test_error
    decided = by_images if seeds == 1 else by_seeds and (by_images or test_error is None)
    if not decided:
        return "undecided"
    return "better" if gain > 0 else "worse"
