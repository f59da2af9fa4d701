"""A table as a reader sees it: rows by group, numbers as text; HTML and Markdown share it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from sign_ext.report.schema import Row, Table
from sign_ext.report.wording import Judged, Shown, judge, show, style_of

WIDE = 8  # columns; beyond, the page sets them smaller


@dataclass(frozen=True)
class RowView:
    """A row as text.

    Attributes:
        label: the method's name.
        note: which of the table's notes belongs to it, from 1; None without one.
        cells: one a column.
        stages: keys of its artefacts.
    """

    label: str
    note: int | None
    cells: tuple[Shown, ...]
    stages: tuple[str, ...]

    @property
    def in_paper(self) -> bool:
        """Whether the paper has a number for it."""
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
        headings: (label, unit) a column; the unit is "%" or "".
        groups: in order.
        notes: on rows, in order.
        comparisons: in order.
        wide: whether it has many columns.
    """

    title: str
    caption: str
    headings: tuple[tuple[str, str], ...]
    groups: tuple[GroupView, ...]
    notes: tuple[str, ...]
    comparisons: tuple[Judged, ...]
    wide: bool

    @property
    def in_paper(self) -> bool:
        """Whether the paper has any number for it."""
        return any(row.in_paper for group in self.groups for row in group.rows)

    @property
    def traced(self) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
        """(group, label, artefacts' keys) of the rows that have such keys."""
        return tuple(
            (group.heading, row.label, row.stages)
            for group in self.groups
            for row in group.rows
            if row.stages
        )


def view(table: Table) -> TableView:
    """Write a table's numbers as text.

    Args:
        table: with rows of one group next to each other.
    """
    styles = [style_of(column, table.rows) for column in table.columns]
    notes = list(dict.fromkeys(row.note for row in table.rows if row.note))

    def row_view(row: Row) -> RowView:
        cells = tuple(
            show(row.cells.get(column.key), style)
            for column, style in zip(table.columns, styles, strict=True)
        )
        note = notes.index(row.note) + 1 if row.note else None
        return RowView(row.label, note, cells, row.stages)

    return TableView(
        title=table.title,
        caption=table.caption,
        headings=tuple((c.label, "%" if c.kind == "share" else "") for c in table.columns),
        groups=tuple(
            GroupView(heading, tuple(row_view(row) for row in rows))
            for heading, rows in itertools.groupby(table.rows, key=lambda row: row.group)
        ),
        notes=tuple(notes),
        comparisons=tuple(judge(comparison, table) for comparison in table.comparisons),
        wide=len(table.columns) > WIDE,
    )
