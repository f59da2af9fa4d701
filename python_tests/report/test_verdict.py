"""Verdicts: both kinds of chance must be excluded, and one seed leaves the test set's alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sign_ext.report.schema import Cell, Comparison, Kind, Row
from sign_ext.report.verdict import compare_rows


def compare(
    method: tuple[float | None, ...],
    baseline: tuple[float | None, ...],
    *,
    images: int | None = 10_000,
    kind: Kind = "share",
    higher_is_better: bool = True,
) -> Comparison:
    rows = (
        Row("SIGN", "MobileNetV2", {"mean": Cell(method), "rest": Cell((0.0,))}),
        Row("mixup", "BasicCNN", {"mean": Cell(baseline, paper=0.8584)}),
    )
    return compare_rows("mean", *rows, images=images, kind=kind, higher_is_better=higher_is_better)


def test_all_fields(rng: np.random.Generator) -> None:
    a, b = rng.uniform(0.8, 0.9, 5), rng.uniform(0.7, 0.8, 5)
    found = compare((*a, None), (*b, 0.9), images=643)
    assert (found.column, found.method, found.baseline) == ("mean", "SIGN", "mixup")
    assert (found.group, found.baseline_group, found.seeds) == ("MobileNetV2", "BasicCNN", 5)
    assert found.difference == pytest.approx((a - b).mean())
    assert found.deviation == pytest.approx((a - b).std(ddof=1))
    assert found.p_value == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert found.low < found.difference < found.high
    assert found.detectable > 0
    variances = [mean * (1 - mean) / 643 for mean in (a.mean(), b.mean())]
    assert found.test_error == pytest.approx(math.sqrt(sum(variances)))
    assert found.verdict == "better"


HIGH, LOW = (0.86, 0.87, 0.862), (0.84, 0.851, 0.841)


@pytest.mark.parametrize(
    ("method", "baseline", "images", "verdict"),
    [
        (HIGH, LOW, 10_000, "better"),  # 2 points; error 0.5
        (LOW, HIGH, 10_000, "worse"),
        (HIGH, LOW, 500, "undecided"),  # error 2.2: the seeds agree, the test set is too small
        (HIGH, LOW, None, "better"),  # no test-set error to pass
        (HIGH, (0.85, 0.86, 0.80), 10**6, "undecided"),  # the seeds disagree: p = 0.2
        ((0.86,), (0.84,), 10_000, "better"),  # one seed: the test set alone
        ((0.84,), (0.86,), 10_000, "worse"),
        ((0.86,), (0.85,), 500, "undecided"),
        ((0.86,), (0.84,), None, "undecided"),  # nothing to judge by
        ((0.86, None), (0.84, 0.5), 10_000, "better"),  # one pair left
        ((0.5, 0.75), (0.25, 0.5), 10**6, "undecided"),  # equal differences: no test
        ((0.5, 0.6), (0.5, 0.6), 10**6, "undecided"),
        ((1.0,), (1.0,), 100, "undecided"),  # no error and no difference
    ],
)
def test_verdicts(
    method: tuple[float | None, ...],
    baseline: tuple[float | None, ...],
    images: int | None,
    verdict: str,
) -> None:
    assert compare(method, baseline, images=images).verdict == verdict


def test_the_edge_is_two_standard_errors() -> None:
    for images in range(2000, 3200):
        found = compare((0.8613,), (0.8407,), images=images)
        beyond = 2 * math.sqrt((0.8613 * 0.1387 + 0.8407 * 0.1593) / images) < 0.0206
        assert found.verdict == ("better" if beyond else "undecided")


def test_where_lower_is_better() -> None:
    found = compare(HIGH, LOW, images=None, kind="number", higher_is_better=False)
    assert found.verdict == "worse"
    assert found.difference > 0  # stays method − baseline
    assert (
        compare(LOW, HIGH, images=None, kind="number", higher_is_better=False).verdict == "better"
    )


def test_only_shares_have_a_test_error() -> None:
    numbers = compare((30.0, 31.0, 32.5), (20.0, 21.5, 22.0), kind="number")
    assert numbers.test_error is None
    assert numbers.verdict == "better"
    assert compare(HIGH, LOW, images=None).test_error is None


def test_refusals() -> None:
    row = Row("SIGN", "", {"mean": Cell((0.5,))})
    other = Row("mixup", "", {"median": Cell((0.5,))})
    with pytest.raises(ValueError, match="row 'mixup' has no column 'mean'; it has median"):
        compare_rows("mean", row, other, images=None, kind="share")
    with pytest.raises(ValueError, match="none of 2 seeds"):
        compare((None, 0.5), (0.5, None))
    with pytest.raises(ValueError, match="images=0"):
        compare(HIGH, LOW, images=0)
    with pytest.raises(ValueError, match="lie in 0–1"):
        compare((85.0,), (84.0,))
