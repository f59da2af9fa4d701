"""Compare the rows of a joined table again, as the tables that it was joined from did."""

from __future__ import annotations

from collections.abc import Sequence

from sign_ext.report.schema import Column, Comparison, Table

Pair = tuple[str, str, str, str, str]


def compare_again(joined: Table, tables: Sequence[Table]) -> tuple[Comparison, ...]:
    """Make each comparison of `tables` from the joined rows.

    Args:
        joined: the table with all seeds' values.
        tables: what it was joined from.

    Raises:
        ValueError: a comparison names a row or column that is not there.
    """
    from sign_ext.evaluation import compare_rows

    rows = {(row.group, row.label): row for row in joined.rows}
    columns = {column.key: column for column in joined.columns}
    known: dict[Pair, list[tuple[Comparison, Table]]] = {}
    for table in tables:
        for each in table.comparisons:
            known.setdefault(_pair(each), []).append((each, table))
    told = []
    for pair, found in known.items():
        key, group, method, baseline_group, baseline = pair
        try:
            column = columns[key]
            judged, other = rows[group, method], rows[baseline_group, baseline]
        except KeyError as error:
            raise ValueError(
                f"{joined.title} compares {method!r} ({group}) with {baseline!r} "
                f"({baseline_group}) in column {key!r}, but has no {error}."
            ) from error
        told.append(
            compare_rows(
                key,
                judged,
                other,
                images=_images(found),
                kind=column.kind,
                higher_is_better=_higher_is_better(column, [each for each, _ in found]),
            )
        )
    return tuple(told)


def _pair(comparison: Comparison) -> Pair:
    return (
        comparison.column,
        comparison.group,
        comparison.method,
        comparison.baseline_group,
        comparison.baseline,
    )


def _images(found: Sequence[tuple[Comparison, Table]]) -> int | None:
    """Return how many test images a comparison's shares were counted on.

    Where a table does not say it, the test set's standard error does: a(1−a) + b(1−b) over its
    square, with the mean accuracies a and b.
    """
    for comparison, table in found:
        if comparison.test_error is None:
            return None
        if table.images is not None:
            return table.images
    for comparison, table in found:
        if comparison.test_error:
            images = _variances(comparison, table) / comparison.test_error**2
            if abs(images - round(images)) > 1e-3:
                raise ValueError(
                    f"{table.title}, {comparison.method!r} against {comparison.baseline!r} in "
                    f"column {comparison.column!r}: its test_error would be that of {images:.3f} "
                    "test images; the comparison was not made from this table's values. Reproduce "
                    "again."
                )
            return round(images)
    return None


def _variances(comparison: Comparison, table: Table) -> float:
    """Return a(1−a) + b(1−b) of the mean shares over the seeds that have both."""
    from sign_ext.evaluation.paired import complete_pairs

    rows = {(row.group, row.label): row for row in table.rows}
    judged = rows[comparison.group, comparison.method]
    other = rows[comparison.baseline_group, comparison.baseline]
    pairs = complete_pairs(*(row.cells[comparison.column].values for row in (judged, other)))
    means = [sum(values) / len(values) for values in zip(*pairs, strict=True)]
    return sum(mean * (1 - mean) for mean in means)


def _higher_is_better(column: Column, comparisons: Sequence[Comparison]) -> bool:
    """Return what the verdicts have been made by; the column says it where all are undecided."""
    for each in comparisons:
        if each.verdict != "undecided":
            return (each.difference > 0) == (each.verdict == "better")
    return column.higher_is_better
