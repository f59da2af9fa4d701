"""What a report says in words: comparisons, settings, scales, seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sign_ext.formatting import mean_and_deviation
from sign_ext.report.schema import Cell, Column, Comparison, Kind, Results, Row, Table

# How a table's numbers are written: a column's decimals, means, spreads and differences.


NOTHING = "–"
FIGURES = 4  # of the largest number of a column of numbers


@dataclass(frozen=True)
class Style:
    """How the numbers of one column are written, all with the same decimals.

    Attributes:
        kind: "share" (shown in percent), "number" or "count".
        decimals: behind the point.
        scientific: as 1.2e-05, because the column holds nothing that decimals could show.
    """

    kind: Kind
    decimals: int
    scientific: bool = False

    def value(self, number: float | None) -> str:
        """Write a number, a share in percent without the sign.

        Example:
            >>> Style("share", 1).value(0.8637)
            '86.4'
        """
        if number is None or not math.isfinite(number):
            return NOTHING
        shown = 100 * number if self.kind == "share" else number
        text = f"{shown:.{self.decimals}{'e' if self.scientific else 'f'}}"
        if not self.scientific and abs(shown) >= 1000:
            text = f"{shown:,.{self.decimals}f}"
        if float(text.replace(",", "")) == 0:
            text = text.lstrip("-")
        return text.replace("-", "−")

    def difference(self, number: float | None) -> str:
        """Write a difference with its sign; one that rounds to zero has none.

        Example:
            >>> Style("share", 1).difference(-0.0123)
            '−1.2'
        """
        text = self.value(number)
        digits = text.replace("−", "").replace(",", "")
        if text == NOTHING or text.startswith("−") or float(digits) == 0:
            return text
        return f"+{text}"


@dataclass(frozen=True)
class Shown:
    """A cell as text; what it lacks is "".

    Attributes:
        ours: mean over seeds.
        spread: sample standard deviation over seeds, with more than one.
        counted: how many seeds have the quantity, where not all do.
        paper: the paper's number.
        difference: ours − the paper's.
    """

    ours: str
    spread: str = ""
    counted: str = ""
    paper: str = ""
    difference: str = ""


def style_of(column: Column, rows: Iterable[Row]) -> Style:
    """Choose the decimals of a column from the numbers it holds.

    Shares have one decimal of a percent; counts none, or one where means over seeds need it;
    numbers as many as show the column's largest one with four figures.

    Args:
        column: of a table.
        rows: of that table.
    """
    found: list[float] = []
    for row in rows:
        cell = row.cells.get(column.key)
        if cell is not None:
            found += [v for v in (*summary(cell)[:2], cell.paper) if v is not None]
    largest = max((abs(value) for value in found if math.isfinite(value)), default=0.0)
    if column.kind == "share":
        return Style("share", 1)
    if column.kind == "count":
        whole = largest >= 1000 or all(float(value).is_integer() for value in found)
        return Style("count", 0 if whole else 1)
    if 0 < largest < 1e-3:
        return Style("number", 2, scientific=True)
    before = len(str(int(largest))) if largest >= 1 else 0
    return Style("number", max(FIGURES - before, 0))


def fine_style(column: Column, rows: Iterable[Row]) -> Style:
    """Return the style for differences within a column: one decimal more than its cells have.

    Args:
        column: of a table.
        rows: of that table.
    """
    style = style_of(column, rows)
    return replace(style, decimals=style.decimals + 1)


def summary(cell: Cell) -> tuple[float | None, float | None, int]:
    """Return a cell's mean and deviation over the seeds that have it, and how many those are.

    Returns:
        None for the mean without any seed, and for the deviation with fewer than two.

    Example:
        >>> summary(Cell((1.0, None, 3.0)))
        (2.0, 1.4142135623730951, 2)
    """
    known = [v for v in cell.values if v is not None and math.isfinite(v)]
    if not known:
        return None, None, 0
    mean, deviation = mean_and_deviation(known)
    return mean, deviation if len(known) > 1 else None, len(known)


def show(cell: Cell | None, style: Style) -> Shown:
    """Write a cell.

    Args:
        cell: of a row; None where the row has none in this column.
        style: of the column.

    Example:
        >>> show(Cell((0.85, 0.87), paper=0.864), Style("share", 1))
        Shown(ours='86.0', spread='± 1.4', counted='', paper='86.4', difference='−0.4')
    """
    if cell is None:
        return Shown(NOTHING)
    mean, deviation, count = summary(cell)
    if style.kind == "count" and deviation == 0:
        deviation = None  # counts that all seeds share, gradient steps say
    return Shown(
        ours=style.value(mean),
        spread="" if deviation is None else f"± {style.value(deviation)}",
        counted=f"{count} of {len(cell.values)} seeds" if 0 < count < len(cell.values) else "",
        paper="" if cell.paper is None else style.value(cell.paper),
        difference=""
        if cell.paper is None or mean is None
        else style.difference(mean - cell.paper),
    )


SCALES = {
    "smoke": "Scale “smoke”: a check that every part runs. Its numbers say nothing about a method.",
    "small": "Scale “small”: fewer images, epochs or seeds than the paper’s. What is compared here "
    "was made alike, but the paper’s numbers were not made at this scale.",
}

HINTS: Mapping[str, str] = {
    "scatter": "The axes have no unit.",
    "reliability": "Bars are the accuracy of the images in a bin of confidence; a diamond stands "
    "at the bin’s mean confidence; on the dashed line the two agree. Below: the share of images.",
}

P_VALUES = (
    "p is of the two-sided paired t-test over seeds, not corrected for the number of comparisons. "
    "The smallest detectable difference is the one that this many seeds would show with 80% power "
    "at the 5% level: a smaller one may be there and stay unseen. The test set’s error is the "
    "standard error of the difference from the finite test set alone. A verdict other than "
    "“undecided” needs p < 0.05 and, for shares of test images, a difference beyond twice that "
    "error; with one seed, the latter alone."
)


@dataclass(frozen=True)
class Judged:
    """A comparison as text.

    Attributes:
        column: the heading of its column, and the unit that the numbers here are in.
        group: what both rows belong to; "" where they differ, and are named with theirs.
        method: the row that is judged.
        baseline: the row it is judged against.
        difference: with its sign.
        interval: 95%, or –.
        p: of the t-test, or –.
        detectable: smallest detectable difference, or –.
        test_error: the test set's alone, or –.
        verdict: "better", "worse" or "undecided".
        because: why it is undecided, else "".
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
    verdict: str
    because: str


def judge(comparison: Comparison, table: Table) -> Judged:
    """Put a comparison into words.

    Args:
        comparison: one of the table's.
        table: whose columns give it its heading and unit.
    """
    column = _column(comparison, table)
    style = fine_style(column, table.rows)
    same = comparison.group == comparison.baseline_group
    method, baseline = comparison.method, comparison.baseline
    if not same:
        method += f" ({comparison.group})"
        baseline += f" ({comparison.baseline_group})"
    return Judged(
        column=f"{column.label}, points" if column.kind == "share" else column.label,
        group=comparison.group if same else "",
        method=method,
        baseline=baseline,
        difference=style.difference(comparison.difference),
        interval=_interval(comparison, style),
        p=p_value(comparison.p_value),
        detectable=style.value(comparison.detectable),
        test_error=style.value(comparison.test_error),
        verdict=comparison.verdict,
        because=_because(comparison),
    )


def p_value(p: float | None) -> str:
    """Write a p-value: two significant figures, three decimals at most.

    Example:
        >>> p_value(0.0312), p_value(0.00002), p_value(0.6789)
        ('0.031', '< 0.001', '0.68')
    """
    if p is None:
        return NOTHING
    if p < 0.001:
        return "< 0.001"
    return f"{p:.2f}" if p >= 0.0995 else f"{p:.3f}"


def many(count: int, noun: str) -> str:
    """Write "1 seed", "3 seeds"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(words: Iterable[object]) -> str:
    """Write "K", "K and L", "K, L and M".

    Example:
        >>> listed([10, 50, 100])
        '10, 50 and 100'
    """
    *before, last = map(str, words)
    return f"{', '.join(before)} and {last}" if before else last


def settings_of(settings: Mapping[str, Any], seeds: Sequence[int] = ()) -> list[tuple[str, str]]:
    """Write settings as (name, value), those about the step size first: results hang on it.

    Args:
        settings: name → a plain value, or a list or dict of them.
        seeds: of the results; a dict with these keys has a value a seed.

    Example:
        >>> settings_of({"epochs": 9, "step_size": {"0": 2.5, "1": 3.0}}, (0, 1))
        [('step size', '2.5, 3 (one a seed)'), ('epochs', '9')]
    """

    def told(value: Any) -> str:
        if isinstance(value, Mapping) and value and set(map(str, value)) == set(map(str, seeds)):
            return ", ".join(plain(each) for each in value.values()) + " (one a seed)"
        return plain(value)

    named = [(_name(name), told(value)) for name, value in _flat(settings).items()]
    return sorted(named, key=lambda pair: "step size" not in pair[0])  # stable: else as given


def plain(value: Any) -> str:
    """Write a setting's value as people do.

    Example:
        >>> plain([50, 100]), plain({"lr": 0.1, "nesterov": True}), plain(None)
        ('50, 100', 'lr: 0.1, nesterov: yes', 'none')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{str(k).replace('_', ' ')}: {plain(v)}" for k, v in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(plain(each) for each in value) or "none"
    return str(value)


def seeds_of(results: Results) -> str:
    """Write "3 seeds (0, 1, 2)"."""
    return f"{many(len(results.seeds), 'seed')} ({', '.join(map(str, results.seeds))})"


def spread_of(results: Results) -> str:
    """Say what stands behind ± and in the quieter lines."""
    spread = (
        f"Each number is the mean over {many(len(results.seeds), 'seed')}; ± is the sample "
        "standard deviation over them."
        if len(results.seeds) > 1
        else "Each number is of one seed, so its spread is not known."
    )
    return f"{spread} Shares are in percent, their differences in percentage points."


def made_with(results: Results) -> list[tuple[str, str]]:
    """List seeds, commit, machine and versions as (name, value)."""
    made = [("seeds", ", ".join(map(str, results.seeds))), ("scale", results.scale)]
    made.append(("commit", results.commit or "not from a checkout"))
    made += [(name.replace("_", " "), plain(value)) for name, value in results.machine.items()]
    return made + [(name, plain(value)) for name, value in results.versions.items()]


def _name(name: str) -> str:
    """Write a setting's name as words; one that is words already stays as it is."""
    return name.replace("_", " ") if name.isidentifier() else name


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Put what is in a dict of dicts beside the rest, both names before it."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and any(isinstance(v, Mapping) for v in value.values()):
            flat |= {f"{_name(name)}: {_name(inner)}": each for inner, each in _flat(value).items()}
        else:
            flat[name] = value
    return flat


def _interval(comparison: Comparison, style: Style) -> str:
    if comparison.low is None or comparison.high is None:
        return NOTHING
    return f"{style.difference(comparison.low)} to {style.difference(comparison.high)}"


def _because(comparison: Comparison) -> str:
    """Say why a comparison is undecided; see `report.verdict.compare_rows` for the rule."""
    if comparison.verdict != "undecided":
        return ""
    reasons = []
    if comparison.seeds == 1:
        reasons.append("one seed")
    elif comparison.p_value is None:
        reasons.append("no spread over seeds")
    elif comparison.p_value >= 0.05:
        reasons.append("zero is in the interval")
    error = comparison.test_error
    if error is not None and abs(comparison.difference) <= 2 * error:
        reasons.append("within twice the test set’s error")
    return ", ".join(reasons)


def _column(comparison: Comparison, table: Table) -> Column:
    key = comparison.column
    named = (column for column in table.columns if column.key == key)
    return next(named, Column(key, key, "number"))
