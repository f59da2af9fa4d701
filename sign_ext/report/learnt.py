"""Which networks of a table are not shown to have learnt, and what its numbers are without them.

A network that guesses counts like any other in means, spreads and comparisons: leaving it out after
looking would be a choice. So its number stays, and beside it stands what there is without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sign_ext.data.guessing import NOT_SHOWN, doubt_of_accuracy
from sign_ext.evaluation.crossed import crossed
from sign_ext.evaluation.paired import paired
from sign_ext.evaluation.samples import image_covariance
from sign_ext.formatting import listed
from sign_ext.report.schema import Cell, Comparison, Row, Table
from sign_ext.report.verdict import kept_samples

TEN_CLASSES = 0.1  # of all tables that are listed here: CIFAR-10's, or the digits' that stand in
CLEAN = "normal"  # the column of accuracy on clean test images, where corrupted ones stand beside
CLEAN_OF = {"Table 1": "mean", "Table 4": "mean"}  # and in tables by class

Positions = Mapping[int, str]  # of seeds, in the order of a cell's values → what is said of them


def doubted(row: Row, table: Table) -> dict[int, str]:
    """Why networks of a row are not shown to have learnt: a seed's position → the reason.

    It is what their training recorded. Results of earlier versions recorded nothing; there the
    accuracy on clean test images is held against guessing among ten classes, by the same test.

    Args:
        row: of the table.
        table: has the number of test images.
    """
    told = {i: reason for i, reason in enumerate(row.doubts) if reason is not None}
    key = CLEAN_OF.get(table.title, CLEAN)
    found = row.cells.get(key)
    for i, accuracy in enumerate(() if found is None else found.values):
        if i not in told and accuracy is not None and table.images is not None:
            told[i] = doubt_of_accuracy(
                accuracy, table.images, TEN_CLASSES, of="test accuracy", guess="of ten classes"
            )
    return {i: reason for i, reason in sorted(told.items()) if reason}


def doubted_pairs(comparison: Comparison, table: Table) -> dict[int, str]:
    """Which row of a comparison is in doubt: a seed's position → its label, or "both".

    Args:
        comparison: one of the table's.
        table: has both rows.
    """
    rows = {(row.group, row.label): row for row in table.rows}
    judged = rows.get((comparison.group, comparison.method))
    other = rows.get((comparison.baseline_group, comparison.baseline))
    if judged is None or other is None:
        return {}
    mine, its = doubted(judged, table), doubted(other, table)
    names = {i: comparison.method if i in mine else comparison.baseline for i in mine | its}
    return {i: "both" if i in mine and i in its else names[i] for i in sorted(names)}


def seeds_in_words(positions: Positions, seeds: Sequence[int]) -> str:
    """Write which seeds are in doubt, with what is said of them in parentheses.

    Example:
        >>> seeds_in_words({1: "mixup"}, (4, 7))
        'seed 7 (mixup) is not shown to have learnt'
        >>> seeds_in_words({0: "", 1: "both"}, (4, 7))
        'seeds 4 and 7 (both) are not shown to have learnt'
    """
    named = listed(f"{seeds[i]}{f' ({said})' if said else ''}" for i, said in positions.items())
    several = len(positions) > 1
    return f"seed{'s' if several else ''} {named} {'are' if several else 'is'} {NOT_SHOWN}"


def without(cell: Cell, positions: Positions) -> Cell:
    """A cell without some seeds.

    Args:
        cell: of any row.
        positions: of the seeds, from 0.
    """

    def kept(values: tuple) -> tuple:  # type: ignore[type-arg]
        return tuple(value for i, value in enumerate(values) if i not in positions)

    return replace(cell, values=kept(cell.values), samples=kept(cell.samples))


def compared_without(
    comparison: Comparison, table: Table, positions: Positions
) -> Comparison | None:
    """The difference and its interval without some seeds; None if no seed is left.

    It is computed as `verdict.compare_rows` does, but for the bootstrap, and is not judged.

    Args:
        comparison: one of the table's.
        table: has both rows.
        positions: of the seeds, from 0.
    """
    rows = {(row.group, row.label): row for row in table.rows}
    sides = (
        (comparison.method, rows[comparison.group, comparison.method]),
        (comparison.baseline, rows[comparison.baseline_group, comparison.baseline]),
    )
    (method, mine), (baseline, its) = (
        (label, without(row.cells[comparison.column], positions)) for label, row in sides
    )
    pairs = zip(mine.values, its.values, strict=True)
    if not any(a is not None and b is not None for a, b in pairs):
        return None
    by_seeds = paired(mine.values, its.values)
    low, high = by_seeds.low, by_seeds.high
    samples = kept_samples(method, mine, baseline, its)
    if samples is not None:
        of_method, of_baseline = samples
        differences = [a - b for (a, _), (b, _) in zip(of_method, of_baseline, strict=True)]
        covariance = image_covariance([s for _, s in of_method], [s for _, s in of_baseline])
        low, high = crossed(differences, covariance).interval() or (None, None)
    return replace(
        comparison, difference=by_seeds.difference, low=low, high=high, seeds=by_seeds.pairs
    )
