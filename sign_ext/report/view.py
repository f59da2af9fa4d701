"""A table as a reader sees it: numbers as text, rows by group; HTML and Markdown share it.

The HTML pages also share the Jinja environment and images as data URIs, which are at the end.
"""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sign_ext.evaluation.paired import LEVEL
from sign_ext.formatting import counted, duration, mean_and_deviation, percent
from sign_ext.report.learnt import (
    compared_without,
    doubted,
    doubted_pairs,
    seeds_in_words,
    without,
)
from sign_ext.report.schema import Cell, Column, Comparison, Kind, Row, Table
from sign_ext.report.verdict import TEST_ERRORS

if TYPE_CHECKING:
    from jinja2 import Environment


MISSING = "–"
FIGURES = 4  # significant ones, of the largest number of a column of numbers
MOST_WITHOUT = 3  # columns that are said again without networks that have not learnt
MANY_COLUMNS = 8  # with more, the page sets the table in smaller type


@dataclass(frozen=True)
class RowView:
    """A row as text.

    Attributes:
        label: the method's name.
        notes: the numbers of its notes among the table's, from 1.
        cells: one per column.
        stages: keys of its artefacts.
    """

    label: str
    notes: tuple[int, ...]
    cells: tuple[CellText, ...]
    stages: tuple[str, ...]

    @property
    def in_paper(self) -> bool:
        """Whether the paper has a number in this row."""
        return any(cell.paper for cell in self.cells)


@dataclass(frozen=True)
class GroupView:
    """Rows under one heading."""

    heading: str
    rows: tuple[RowView, ...]


@dataclass(frozen=True)
class TableView:
    """A table as text.

    Attributes:
        title, caption: as in `schema.Table`.
        headings: (label, unit) of each column; the unit is "%" or "".
        groups: in order.
        notes: on rows, in order.
        comparisons: in order.
        wide: whether it has more than `MANY_COLUMNS` columns.
        differences: whether differences to the paper's numbers are shown.
    """

    title: str
    caption: str
    headings: tuple[tuple[str, str], ...]
    groups: tuple[GroupView, ...]
    notes: tuple[str, ...]
    comparisons: tuple[ComparisonText, ...]
    wide: bool
    differences: bool

    @property
    def in_paper(self) -> bool:
        """Whether the paper has any number in this table."""
        return any(row.in_paper for group in self.groups for row in group.rows)

    @property
    def by_images(self) -> bool:
        """Whether any comparison pairs the errors of each image."""
        return any(comparison.beside for comparison in self.comparisons)

    @property
    def traced(self) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
        """(group, label, artefacts' keys) of the rows that have such keys."""
        return tuple(
            (group.heading, row.label, row.stages)
            for group in self.groups
            for row in group.rows
            if row.stages
        )


def view(table: Table, *, seeds: Sequence[int] = (), differences: bool = True) -> TableView:
    """Write a table's numbers as text.

    Args:
        table: with rows of one group next to each other.
        seeds: of the results, to name those whose networks are not shown to have learnt; without
            them nothing is said of these.
        differences: whether to show how far the paper's numbers are from ours, which means
            something at the paper's scale only.
    """
    formats = [column_format(column, table.rows) for column in table.columns]
    of_rows = [
        [note for note in (row.note, _doubt(row, table, seeds)) if note] for row in table.rows
    ]
    notes = list(dict.fromkeys(itertools.chain.from_iterable(of_rows)))

    def row_view(row: Row) -> RowView:
        cells = tuple(
            cell_text(row.cells.get(column.key), number_format)
            for column, number_format in zip(table.columns, formats, strict=True)
        )
        numbers = tuple(notes.index(note) + 1 for note in of_rows[table.rows.index(row)])
        return RowView(row.label, numbers, cells, row.stages)

    return TableView(
        title=table.title,
        caption=table.caption,
        headings=tuple((c.label, "%" if c.kind == "share" else "") for c in table.columns),
        groups=tuple(
            GroupView(heading, tuple(row_view(row) for row in rows))
            for heading, rows in itertools.groupby(table.rows, key=lambda row: row.group)
        ),
        notes=tuple(notes),
        comparisons=tuple(comparison_text(each, table, seeds) for each in table.comparisons),
        wide=len(table.columns) > MANY_COLUMNS,
        differences=differences,
    )


def _doubt(row: Row, table: Table, seeds: Sequence[int]) -> str:
    """Say which networks of a row are not shown to have learnt, and the row without them."""
    found = doubted(row, table)
    if not found or not seeds:
        return ""
    reasons = dict.fromkeys(found.values())
    same = len(reasons) == 1
    said = seeds_in_words(dict.fromkeys(found, ""), seeds)
    why = "; ".join(reasons if same else (f"{seeds[i]}: {why}" for i, why in found.items()))
    text = f"{said[0].upper()}{said[1:]}: {why}. The row’s numbers include {_them(found)}."
    compared = {comparison.column for comparison in table.comparisons}
    shown = [c for c in table.columns if c.key in (compared or row.cells) and c.key in row.cells]
    rest = {c.key: without(row.cells[c.key], found) for c in shown[:MOST_WITHOUT]}
    if not any(summarize_cell(cell)[2] for cell in rest.values()):
        return text
    parts = []
    for column in shown[:MOST_WITHOUT]:
        told = cell_text(rest[column.key], column_format(column, table.rows))
        unit = "%" if column.kind == "share" else ""
        number = " ".join(filter(None, (told.ours, told.spread)))
        parts.append(f"{number}{unit} ({column.label})")
    return f"{text} Without {_them(found)}: {', '.join(parts)}."


def _them(found: Sized) -> str:
    return "them" if len(found) > 1 else "it"


@dataclass(frozen=True)
class ColumnFormat:
    """How the numbers of one column are written, all with the same decimals.

    Attributes:
        kind: "share" (shown in percent), "number" or "count".
        decimals: digits after the decimal point.
        scientific: written as 1.2e-05, because all numbers of the column are tiny.
    """

    kind: Kind
    decimals: int
    scientific: bool = False

    def value(self, number: float | None) -> str:
        """Write a number; a share in percent, without the percent sign.

        Example:
            >>> ColumnFormat("share", 1).value(0.8637)
            '86.4'
        """
        if number is None or not math.isfinite(number):
            return MISSING
        shown = 100 * number if self.kind == "share" else number
        text = f"{shown:.{self.decimals}{'e' if self.scientific else 'f'}}"
        if not self.scientific and abs(shown) >= 1000:
            text = f"{shown:,.{self.decimals}f}"
        if float(text.replace(",", "")) == 0:
            text = text.lstrip("-")
        return text.replace("-", "−")

    def difference(self, number: float | None) -> str:
        """Write a difference with its sign; one that rounds to zero gets none.

        Example:
            >>> ColumnFormat("share", 1).difference(-0.0123)
            '−1.2'
        """
        text = self.value(number)
        digits = text.replace("−", "").replace(",", "")
        if text == MISSING or text.startswith("−") or float(digits) == 0:
            return text
        return f"+{text}"


def column_format(column: Column, rows: Iterable[Row]) -> ColumnFormat:
    """Choose the decimals of a column from the numbers it holds.

    Shares get one decimal of a percent. Counts get none, or one where means over seeds need it.
    Numbers get as many as show the column's largest with four significant figures.

    Args:
        column: of a table.
        rows: of that table.
    """
    found: list[float] = []
    for row in rows:
        cell = row.cells.get(column.key)
        if cell is not None:
            found += [v for v in (*summarize_cell(cell)[:2], cell.paper) if v is not None]
    largest = max((abs(value) for value in found if math.isfinite(value)), default=0.0)
    if column.kind == "share":
        return ColumnFormat("share", 1)
    if column.kind == "count":
        whole = largest >= 1000 or all(float(value).is_integer() for value in found)
        return ColumnFormat("count", 0 if whole else 1)
    if 0 < largest < 1e-3:
        return ColumnFormat("number", 2, scientific=True)
    before = len(str(int(largest))) if largest >= 1 else 0
    return ColumnFormat("number", max(FIGURES - before, 0))


def difference_format(column: Column, rows: Iterable[Row]) -> ColumnFormat:
    """Return the format of differences within a column: one decimal more than its cells have.

    Args:
        column: of a table.
        rows: of that table.
    """
    number_format = column_format(column, rows)
    return replace(number_format, decimals=number_format.decimals + 1)


@dataclass(frozen=True)
class CellText:
    """A cell as text; parts that it lacks are "".

    Attributes:
        ours: mean over seeds.
        spread: sample standard deviation over seeds, with more than one.
        counted: how many seeds have the quantity, if not all do.
        paper: the paper's number.
        difference: ours − the paper's.
    """

    ours: str
    spread: str = ""
    counted: str = ""
    paper: str = ""
    difference: str = ""


def summarize_cell(cell: Cell) -> tuple[float | None, float | None, int]:
    """Return a cell's mean and deviation over the seeds that have a value, and their number.

    Returns:
        None for the mean without any such seed, and for the deviation with fewer than two.

    Example:
        >>> summarize_cell(Cell((1.0, None, 3.0)))
        (2.0, 1.4142135623730951, 2)
    """
    known = [v for v in cell.values if v is not None and math.isfinite(v)]
    if not known:
        return None, None, 0
    mean, deviation = mean_and_deviation(known)
    return mean, deviation if len(known) > 1 else None, len(known)


def cell_text(cell: Cell | None, number_format: ColumnFormat) -> CellText:
    """Write a cell.

    Args:
        cell: of a row; None if the row has none in this column.
        number_format: of the column.

    Example:
        >>> cell_text(Cell((0.85, 0.87), paper=0.864), ColumnFormat("share", 1))
        CellText(ours='86.0', spread='± 1.4', counted='', paper='86.4', difference='−0.4')
    """
    if cell is None:
        return CellText(MISSING)
    mean, deviation, count = summarize_cell(cell)
    if number_format.kind == "count" and deviation == 0:
        deviation = None  # a count that is the same for all seeds, such as gradient steps
    return CellText(
        ours=number_format.value(mean),
        spread="" if deviation is None else f"± {number_format.value(deviation)}",
        counted=f"{count} of {len(cell.values)} seeds" if 0 < count < len(cell.values) else "",
        paper="" if cell.paper is None else number_format.value(cell.paper),
        difference=""
        if cell.paper is None or mean is None
        else number_format.difference(mean - cell.paper),
    )


@dataclass(frozen=True)
class ComparisonText:
    """A comparison as text.

    Attributes:
        column: the heading of its column, with the unit of the numbers here.
        group: the group of both rows; "" if they differ, and then each row's name includes its own.
        method: the row that is judged.
        baseline: the row it is compared with.
        difference: with its sign.
        interval: 95%, or –.
        p: of the test, or –; in a family, with the value that Holm's procedure makes of it.
        detectable: smallest detectable difference, or –.
        test_error: standard error of the test set alone, or –.
        beside: the bootstrap's interval and the t-test over seeds; "" if images are not paired.
        verdict: "better", "worse", "no difference" or "undecided".
        because: what else must be known of it, otherwise "".
        doubt: which seeds' networks are not shown to have learnt, and the difference without
            them; "" for none.
        family: "primary", "secondary" or "".
    """

    column: str
    group: str
    method: str
    baseline: str
    difference: str
    interval: str
    p: str
    detectable: str
    test_error: str
    beside: str
    verdict: str
    because: str
    doubt: str
    family: str


def comparison_text(
    comparison: Comparison, table: Table, seeds: Sequence[int] = ()
) -> ComparisonText:
    """Write a comparison.

    Args:
        comparison: one of the table's.
        table: whose columns give it its heading and unit.
        seeds: as for `view`.
    """
    column = _column(comparison, table)
    number_format = difference_format(column, table.rows)
    same = comparison.group == comparison.baseline_group
    method, baseline = comparison.method, comparison.baseline
    if not same:
        method += f" ({comparison.group})"
        baseline += f" ({comparison.baseline_group})"
    return ComparisonText(
        column=f"{column.label}, points" if column.kind == "share" else column.label,
        group=comparison.group if same else "",
        method=method,
        baseline=baseline,
        difference=number_format.difference(comparison.difference),
        interval=_interval(comparison.low, comparison.high, number_format),
        p=_p_values(comparison),
        detectable=number_format.value(comparison.detectable),
        test_error=number_format.value(comparison.test_error),
        beside=_beside(comparison, number_format),
        verdict=comparison.verdict,
        because=_because(comparison, number_format, "points" if column.kind == "share" else ""),
        doubt=_doubt_of_pairs(comparison, table, seeds),
        family=comparison.family,
    )


def _doubt_of_pairs(comparison: Comparison, table: Table, seeds: Sequence[int]) -> str:
    found = doubted_pairs(comparison, table) if seeds else {}
    if not found:
        return ""
    said = seeds_in_words(found, seeds)
    rest = compared_without(comparison, table, found)
    if rest is None:
        return f"{said}, and no other seed is there"
    column = _column(comparison, table)
    number_format = difference_format(column, table.rows)
    unit = " points" if column.kind == "share" else ""
    interval = _interval(rest.low, rest.high, number_format)
    left = f"{counted(rest.seeds, 'seed')} {'has' if rest.seeds == 1 else 'have'}"
    text = (
        f"{said}; without {_them(found)} {left} {number_format.difference(rest.difference)}{unit}"
    )
    return text + ("" if interval == MISSING else f" ({interval})")


def format_p_value(p: float | None) -> str:
    """Write a p-value: two significant figures, three decimals at most.

    Example:
        >>> format_p_value(0.0312), format_p_value(0.00002), format_p_value(0.6789)
        ('0.031', '< 0.001', '0.68')
    """
    if p is None:
        return MISSING
    if p < 0.001:
        return "< 0.001"
    return f"{p:.2f}" if p >= 0.0995 else f"{p:.3f}"


def _p_values(comparison: Comparison) -> str:
    p = format_p_value(comparison.p_value)
    if comparison.adjusted is None or comparison.adjusted == comparison.p_value:
        return p
    return f"{p}; Holm {format_p_value(comparison.adjusted)}"


def _interval(low: float | None, high: float | None, number_format: ColumnFormat) -> str:
    if low is None or high is None:
        return MISSING
    return f"{number_format.difference(low)} to {number_format.difference(high)}"


def _beside(comparison: Comparison, number_format: ColumnFormat) -> str:
    if comparison.paired_by != "images":
        return ""
    ends = comparison.bootstrap_low, comparison.bootstrap_high
    return (
        f"bootstrap {_interval(*ends, number_format)}, "
        f"t over seeds p = {format_p_value(comparison.t_p_value)}"
    ).replace("p = <", "p <")


def _because(comparison: Comparison, number_format: ColumnFormat, unit: str) -> str:
    """Say what a verdict rests on; `report.verdict.compare_rows` has the rules."""
    reasons = []
    if comparison.paired_by == "images":
        reasons += _because_by_images(
            comparison, f"{number_format.value(comparison.margin)} {unit}"
        )
    elif comparison.verdict == "undecided":
        reasons += _because_by_seeds(comparison)
    if comparison.family:
        reasons.append(f"{comparison.family} family")
        if comparison.paired_by == "seeds":
            reasons.append("images not paired")
    return ", ".join(reasons)


def _because_by_images(comparison: Comparison, margin: str) -> list[str]:
    margin = margin.strip()
    p, equivalence = comparison.adjusted, comparison.adjusted_equivalence
    if not comparison.family:
        p, equivalence = comparison.p_value, comparison.equivalence
    equal = equivalence is not None and equivalence < LEVEL
    if comparison.verdict == "no difference":
        return [f"within ±{margin}"]
    if comparison.verdict != "undecided":
        return [f"by less than {margin}"] if equal else []
    if comparison.seeds == 1:
        return ["one seed"]
    if comparison.p_value is None:
        return ["no spread"]
    if p is not None and p >= LEVEL > comparison.p_value:
        reasons = ["not after Holm’s correction"]
    else:
        reasons = ["zero is in the interval"]
    if comparison.margin is not None:
        reasons.append(f"a difference beyond ±{margin} is not excluded")
    return reasons


def _because_by_seeds(comparison: Comparison) -> list[str]:
    reasons = []
    if comparison.seeds == 1:
        reasons.append("one seed")
    elif comparison.p_value is None:
        reasons.append("no spread over seeds")
    elif comparison.p_value >= LEVEL:
        reasons.append("zero is in the interval")
    error = comparison.test_error
    if error is not None and abs(comparison.difference) <= TEST_ERRORS * error:
        reasons.append("within twice the test set’s error")
    return reasons


def _column(comparison: Comparison, table: Table) -> Column:
    key = comparison.column
    named = (column for column in table.columns if column.key == key)
    return next(named, Column(key, key, "number"))


def environment() -> Environment:
    """Return a Jinja environment for this package's templates.

    Values are escaped, and an undefined name is an error.

    Example:
        >>> environment().from_string("{{ 75 | duration }}, {{ x }}").render(x="<b>")
        '75 s, &lt;b&gt;'
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    jinja = Environment(
        loader=PackageLoader("sign_ext", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters |= {"percent": percent, "duration": duration}
    return jinja


def data_uri(content: bytes, kind: str) -> str:
    """Return a data: URI of an image, kind "png" or "svg+xml"."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
