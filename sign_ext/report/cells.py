"""How a table's numbers are written: a column's decimals, means, spreads and differences."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from sign_ext.formatting import mean_and_deviation
from sign_ext.report.schema import Cell, Column, Kind, Row

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
