"""Numbers as text: decimals of a column, spreads, differences, values that do not exist."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sign_ext.report.schema import Cell, Column, Comparison, Row, Table
from sign_ext.report.view import (
    CellText,
    ColumnFormat,
    cell_text,
    column_format,
    comparison_text,
    difference_format,
    format_p_value,
    summarize_cell,
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
    assert column_format(Column("c", "C", kind), rows_of(*values)).value(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0.0123, "+1.2"), (-0.0123, "−1.2"), (0.0004, "0.0"), (None, "–")]
)
def test_a_difference_has_a_sign_unless_it_is_nothing(number, text) -> None:
    assert ColumnFormat("share", 1).difference(number) == text


def test_differences_have_one_decimal_more_than_their_column() -> None:
    column, rows = Column("c", "C", "number"), rows_of(0.7633, 0.5)
    assert column_format(column, rows).value(0.01834) == "0.0183"
    assert difference_format(column, rows).difference(0.01834) == "+0.01834"
    assert difference_format(Column("c", "C"), rows).difference(0.01834) == "+1.83"


def test_the_spread_is_over_the_seeds_that_have_the_value(rng: np.random.Generator) -> None:
    values = rng.uniform(0.2, 0.9, 5)
    cell = Cell((None, *map(float, values), None), paper=0.5)
    mean, deviation, count = summarize_cell(cell)
    assert count == 5
    np.testing.assert_allclose([mean, deviation], [values.mean(), values.std(ddof=1)], rtol=1e-12)
    shown = cell_text(cell, ColumnFormat("share", 1))
    assert shown == CellText(
        f"{100 * values.mean():.1f}",
        f"± {100 * values.std(ddof=1):.1f}",
        "5 of 7 seeds",
        "50.0",
        f"{100 * (values.mean() - 0.5):+.1f}".replace("-", "−"),
    )


def test_what_does_not_exist_is_a_dash() -> None:
    style = ColumnFormat("share", 1)
    assert cell_text(None, style) == CellText("–")
    assert cell_text(Cell(()), style) == CellText("–")
    assert cell_text(Cell((None, None)), style) == CellText("–")
    assert cell_text(Cell((None,), paper=0.25), style) == CellText("–", paper="25.0")
    assert cell_text(Cell((0.5,)), style) == CellText("50.0")  # one seed has no spread
    assert cell_text(Cell((7.0, 7.0)), ColumnFormat("count", 0)) == CellText("7")


def comparison(**changes: object) -> Comparison:
    fields: dict[str, object] = {
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
    return Comparison(**(fields | changes))  # type: ignore[arg-type]


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
    text = comparison_text(comparison(**changes), table)
    assert text.because == because
    assert (text.column, text.difference, text.detectable) == (
        "Mean, points",
        "+1.23",
        "4.00",
    )


def test_a_comparison_across_groups_names_both() -> None:
    table = Table("T", "", (Column("c", "Mean"),), ())
    across = comparison(baseline_group="h", low=None, high=None, detectable=None)
    text = comparison_text(across, table)
    assert (text.method, text.baseline, text.group) == ("a (g)", "b (h)", "")
    assert (text.interval, text.detectable) == ("–", "–")


def test_p_values_have_two_figures_and_three_decimals_at_most() -> None:
    assert [format_p_value(p) for p in (None, 0.0009, 0.0499, 0.0996, 1.0)] == [
        *("–", "< 0.001", "0.050", "0.10", "1.00"),
    ]
