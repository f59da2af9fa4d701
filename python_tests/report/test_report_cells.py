"""Numbers as text: decimals of a column, spreads, differences, values that do not exist."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sign_ext.report.schema import Cell, Column, Comparison, Row, Table
from sign_ext.report.wording import (
    Shown,
    Style,
    fine_style,
    judge,
    p_value,
    plain,
    settings_of,
    show,
    style_of,
    summary,
)


def rows_of(*values: float | None) -> list[Row]:
    return [Row("m", "g", {"c": Cell((value,))}) for value in values]


@pytest.mark.parametrize(
    ("kind", "values", "number", "text"),
    [
        ("share", (0.5,), 0.86372, "86.4"),
        ("share", (0.5,), -0.0004, "0.0"),
        ("share", (0.5,), 1.0, "100.0"),
        ("count", (212.0, 26.0), 26.0, "26"),
        ("count", (212.5, 26.0), 26.0, "26.0"),
        ("count", (35_200.4,), 35_200.4, "35,200"),
        ("number", (0.8131, 0.5), 0.81309, "0.8131"),
        ("number", (4.5, 0.25), 0.25, "0.250"),
        ("number", (-12.345,), -12.345, "−12.35"),
        ("number", (1234.5,), 1234.5, "1,234"),
        ("number", (0.000_012,), 0.000_012, "1.20e−05"),
        ("number", (0.0,), 0.0, "0.0000"),
        ("number", (None,), None, "–"),
        ("number", (1.0,), math.nan, "–"),
    ],
)
def test_a_number_is_written_as_its_column_asks(kind, values, number, text) -> None:
    assert style_of(Column("c", "C", kind), rows_of(*values)).value(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0.0123, "+1.2"), (-0.0123, "−1.2"), (0.0004, "0.0"), (None, "–")]
)
def test_a_difference_has_a_sign_unless_it_is_nothing(number, text) -> None:
    assert Style("share", 1).difference(number) == text


def test_differences_have_one_decimal_more_than_their_column() -> None:
    column, rows = Column("c", "C", "number"), rows_of(0.7633, 0.5)
    assert style_of(column, rows).value(0.01834) == "0.0183"
    assert fine_style(column, rows).difference(0.01834) == "+0.01834"
    assert fine_style(Column("c", "C"), rows).difference(0.01834) == "+1.83"


def test_the_spread_is_over_the_seeds_that_have_the_value(rng: np.random.Generator) -> None:
    values = rng.uniform(0.2, 0.9, 5)
    cell = Cell((None, *map(float, values), None), paper=0.5)
    mean, deviation, count = summary(cell)
    assert count == 5
    np.testing.assert_allclose([mean, deviation], [values.mean(), values.std(ddof=1)], rtol=1e-12)
    shown = show(cell, Style("share", 1))
    assert shown == Shown(
        f"{100 * values.mean():.1f}",
        f"± {100 * values.std(ddof=1):.1f}",
        "5 of 7 seeds",
        "50.0",
        f"{100 * (values.mean() - 0.5):+.1f}".replace("-", "−"),
    )


def test_what_does_not_exist_is_a_dash() -> None:
    style = Style("share", 1)
    assert show(None, style) == Shown("–")
    assert show(Cell(()), style) == Shown("–")
    assert show(Cell((None, None)), style) == Shown("–")
    assert show(Cell((None,), paper=0.25), style) == Shown("–", paper="25.0")
    assert show(Cell((0.5,)), style) == Shown("50.0")  # one seed has no spread
    assert show(Cell((7.0, 7.0)), Style("count", 0)) == Shown("7")


def comparison(**changes: object) -> Comparison:
    given: dict[str, object] = {
        "column": "c",
        "group": "g",
        "method": "a",
        "baseline": "b",
        "baseline_group": "g",
        "difference": 0.0123,
        "deviation": 0.01,
        "p_value": 0.2,
        "low": -0.005,
        "high": 0.03,
        "detectable": 0.04,
        "test_error": 0.01,
        "seeds": 3,
        "verdict": "undecided",
    }
    return Comparison(**(given | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "because"),
    [
        ({}, "zero is in the interval, within twice the test set’s error"),
        ({"test_error": None}, "zero is in the interval"),
        ({"p_value": 0.01, "low": 0.001}, "within twice the test set’s error"),
        ({"seeds": 1, "p_value": None}, "one seed, within twice the test set’s error"),
        ({"p_value": None, "test_error": 0.001}, "no spread over seeds"),
        ({"verdict": "better"}, ""),
    ],
)
def test_a_comparison_says_why_it_is_undecided(changes, because) -> None:
    table = Table("T", "", (Column("c", "Mean"),), ())
    judged = judge(comparison(**changes), table)
    assert judged.because == because
    assert (judged.column, judged.difference, judged.detectable) == (
        "Mean, points",
        "+1.23",
        "4.00",
    )


def test_a_comparison_across_groups_names_both() -> None:
    table = Table("T", "", (Column("c", "Mean"),), ())
    judged = judge(comparison(baseline_group="h", low=None, high=None, detectable=None), table)
    assert (judged.method, judged.baseline, judged.group) == ("a (g)", "b (h)", "")
    assert (judged.interval, judged.detectable) == ("–", "–")


def test_p_values_and_settings_in_words() -> None:
    assert [p_value(p) for p in (None, 0.0009, 0.0499, 0.0996, 1.0)] == [
        *("–", "< 0.001", "0.050", "0.10", "1.00"),
    ]
    assert plain({"a_b": [1, 2.50], "c": False, "d": ()}) == "a b: 1, 2.5, c: no, d: none"
    settings = {"epochs": 3, "nets": {"x_1": {"lr": 0.1}, "y": 2}, "step size of Φ_1": 4.5}
    assert settings_of(settings, (0, 1)) == [
        ("step size of Φ_1", "4.5"),
        ("epochs", "3"),
        ("nets: x 1", "lr: 0.1"),
        ("nets: y", "2"),
    ]
    assert settings_of({"s": {"3": 1.5, "5": 2.5}}, (3, 5)) == [("s", "1.5, 2.5 (one a seed)")]
    assert settings_of({"s": {}}) == [("s", "")]
