"""Join results of the same experiments with different seeds, as if one run had had all of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from sign_ext.evaluation.paired import complete_pairs
from sign_ext.formatting import counted, finite
from sign_ext.report.schema import (
    Cell,
    Column,
    Comparison,
    Experiment,
    Figure,
    Results,
    Row,
    Table,
)
from sign_ext.report.verdict import Summarize, compare_rows, hold_families

T = TypeVar("T", bound=Hashable)
# What `_figure` appends to a caption; a caption that has it already stays as it is.
DRAWN_FROM = re.compile(r" Drawn from seeds? [\d, ]+ alone\.$")

Seeds = tuple[int, ...]
# Identifies a comparison in a table: column, group, method, baseline's group, baseline.
ComparisonKey = tuple[str, str, str, str, str]


def merge(results: Sequence[Results], *, summarize: Summarize | None = None) -> Results:
    """Join results seed by seed, and compare the rows again.

    Experiments that several results hold are joined; one in a single result is kept unchanged.
    Families of comparisons are held again. Figures are those of the lowest seeds, and their
    captions say so. Findings are recomputed from the joined tables that hold comparisons; an
    experiment without comparisons keeps the findings of each result, prefixed with its seeds.

    Args:
        results: one or more of the same scale and settings; no experiment twice with one seed.
        summarize: writes the findings of a joined table that holds comparisons; without it, all
            experiments keep the findings of each result.

    Returns:
        The joined results, seeds ascending; a single result unchanged.

    Raises:
        ValueError: no results, a seed twice, scales, settings or tables that differ, or
            experiments that would end up with different seeds.

    Example:
        >>> joined = merge([Results("small", (1,), ()), Results("small", (0,), ())])
        >>> joined.seeds
        (0, 1)
    """
    if not results:
        raise ValueError("no results to join; give at least one.")
    if len(results) == 1:
        return results[0]
    for other in results[1:]:
        _same("scale", results[0].scale, other.scale)
    slices: dict[str, list[tuple[Seeds, Experiment]]] = {}
    for name in _order(results):
        found = [(r.seeds, e) for r in results for e in r.experiments if e.name == name]
        slices[name] = sorted(found, key=lambda pair: pair[0])
    seeds = _all_seeds(results, slices)
    joined = Results(
        scale=results[0].scale,
        seeds=seeds,
        experiments=tuple(_experiment(found, summarize) for found in slices.values()),
        data=_union(line for r in results for line in r.data),
        settings=_settings("settings of the scale", [(r.seeds, r.settings) for r in results]),
        machine=_either([r.machine for r in results]),
        versions=_either([r.versions for r in results]),
        commit=", ".join(_union(r.commit for r in results if r.commit)),
        command="\n".join(_union(r.command for r in results if r.command)),
        seconds=sum(r.seconds for r in results),
    )
    return hold_families(joined, summarize)


def _order(results: Sequence[Results]) -> list[str]:
    """Merge the orders of names: a new name goes after its predecessor, or before its successor."""
    order: list[str] = []
    for result in results:
        names = [experiment.name for experiment in result.experiments]
        for i, name in enumerate(names):
            if name in order:
                continue
            later = [order.index(other) for other in names[i + 1 :] if other in order]
            place = order.index(names[i - 1]) + 1 if i else min(later, default=len(order))
            order.insert(place, name)
    return order


def _all_seeds(
    results: Sequence[Results],
    slices: Mapping[str, Sequence[tuple[Seeds, Experiment]]],
) -> Seeds:
    """Return the seeds, which must be the same for every experiment, each once."""
    by_name = {}
    for name, found in slices.items():
        seeds = sorted(itertools.chain.from_iterable(seeds for seeds, _ in found))
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            raise ValueError(
                f"experiment {name!r} has seed {_listed(twice)} in more than one of the results; "
                "give each seed once."
            )
        by_name[name] = tuple(seeds)
    if len(set(by_name.values())) > 1:
        each_with_seeds = "; ".join(f"{name}: {_listed(seeds)}" for name, seeds in by_name.items())
        raise ValueError(
            f"joined, the experiments would have different seeds ({each_with_seeds}), but a report "
            "has the same ones for all; add the missing results, or write two reports."
        )
    if by_name:
        return next(iter(by_name.values()))
    return tuple(sorted({seed for result in results for seed in result.seeds}))


def _experiment(
    slices: Sequence[tuple[Seeds, Experiment]], summarize: Summarize | None
) -> Experiment:
    """Join one experiment's slices, sorted by seed."""
    (first_seeds, first), *others = slices
    if not others and first_seeds == tuple(sorted(first_seeds)):
        return first
    name = f"experiment {first.name!r}"
    for _, other in others:
        _same(f"{name}: title", first.title, other.title)
        _same(f"{name}: stand-ins", first.stand_ins, other.stand_ins)
        _same(f"{name}: tables", _titles(first.tables), _titles(other.tables))
    settings = _settings(f"{name}: settings", [(seeds, each.settings) for seeds, each in slices])
    tables = tuple(
        _table(f"{name}, {group[0].title}", [seeds for seeds, _ in slices], group)
        for group in zip(*(each.tables for _, each in slices), strict=True)
    )
    return replace(
        first,
        settings=settings,
        tables=tables,
        figures=tuple(_figure(figure, first_seeds, bool(others)) for figure in first.figures),
        findings=_findings(tables, slices, summarize),
        command="\n".join(_union(each.command for _, each in slices if each.command)),
        seconds=sum(each.seconds for _, each in slices),
        made=_either([each.made for _, each in slices]),
    )


def _findings(
    tables: Sequence[Table],
    slices: Sequence[tuple[Seeds, Experiment]],
    summarize: Summarize | None,
) -> tuple[str, ...]:
    compared = [table for table in tables if table.comparisons]
    if not slices[1:]:
        return slices[0][1].findings
    if summarize is not None and compared:
        return tuple(sentence for table in compared for sentence in summarize(table))
    return tuple(
        f"Seed{'s' if len(seeds) > 1 else ''} {_listed(seeds)}: {sentence}"
        for seeds, each in slices
        for sentence in each.findings
    )


def _table(name: str, seeds: Sequence[Seeds], tables: Sequence[Table]) -> Table:
    first = tables[0]
    for other in tables[1:]:
        for part in ("caption", "columns", "images"):
            _same(f"{name}: {part}", getattr(first, part), getattr(other, part))
        _same(f"{name}: rows", _labels(first), _labels(other))
    methods = zip(*(table.rows for table in tables), strict=True)
    joined = replace(first, rows=tuple(_row(name, seeds, rows) for rows in methods))
    return replace(joined, comparisons=_compare_again(joined, tables))


def _row(name: str, seeds: Sequence[Seeds], rows: Sequence[Row]) -> Row:
    name = f"{name}, row {rows[0].label!r}"
    for other in rows[1:]:
        _same(f"{name}: cells", sorted(rows[0].cells), sorted(other.cells))
        _same(f"{name}: note", rows[0].note, other.note)
    cells = {
        key: _cell(f"{name}, column {key!r}", seeds, [row.cells[key] for row in rows])
        for key in rows[0].cells
    }
    doubts = {
        seed: doubt
        for mine, row in zip(seeds, rows, strict=True)
        for seed, doubt in zip(mine, row.doubts or [None] * len(mine), strict=True)
    }
    told = tuple(doubts[seed] for seed in sorted(doubts))
    return replace(rows[0], cells=cells, doubts=() if set(told) == {None} else told)


def _cell(name: str, seeds: Sequence[Seeds], cells: Sequence[Cell]) -> Cell:
    values: dict[int, float | None] = {}
    samples: dict[int, str] = {}
    for mine, cell in zip(seeds, cells, strict=True):
        _same(f"{name}: the paper's number", cells[0].paper, cell.paper)
        if not any(each.values for each in cells):
            continue  # the row holds the paper's numbers only
        if len(cell.values) != len(mine):
            raise ValueError(
                f"{name}: {counted(len(cell.values), 'value')} for {counted(len(mine), 'seed')}; "
                "accepted: one a seed."
            )
        values |= dict(zip(mine, cell.values, strict=True))
        samples |= dict(zip(mine, cell.samples or [""] * len(mine), strict=True))
    seeds_in_order = sorted(values)
    return Cell(
        tuple(values[seed] for seed in seeds_in_order),
        cells[0].paper,
        tuple(samples[seed] for seed in seeds_in_order) if any(samples.values()) else (),
    )


def _compare_again(joined: Table, tables: Sequence[Table]) -> tuple[Comparison, ...]:
    """Repeat the comparisons of `tables` on the rows they were joined into.

    Args:
        joined: the table with all seeds' values.
        tables: what it was joined from.

    Raises:
        ValueError: a comparison names a row or column that is not there.
    """
    rows = {(row.group, row.label): row for row in joined.rows}
    columns = {column.key: column for column in joined.columns}
    known: dict[ComparisonKey, list[tuple[Comparison, Table]]] = {}
    for table in tables:
        for each in table.comparisons:
            known.setdefault(_key(each), []).append((each, table))
    compared = []
    for key, found in known.items():
        column_key, group, method, baseline_group, baseline = key
        try:
            column = columns[column_key]
            judged, other = rows[group, method], rows[baseline_group, baseline]
        except KeyError as error:
            raise ValueError(
                f"{joined.title} compares {method!r} ({group}) with {baseline!r} "
                f"({baseline_group}) in column {column_key!r}, but has no {error}."
            ) from error
        compared.append(
            compare_rows(
                column_key,
                judged,
                other,
                images=_images(found),
                kind=column.kind,
                higher_is_better=_higher_is_better(column, [each for each, _ in found]),
                margin=column.margin,
                family=found[0][0].family,
            )
        )
    return tuple(compared)


def _key(comparison: Comparison) -> ComparisonKey:
    return (
        comparison.column,
        comparison.group,
        comparison.method,
        comparison.baseline_group,
        comparison.baseline,
    )


def _images(found: Sequence[tuple[Comparison, Table]]) -> int | None:
    """Return the number of test images behind a comparison's shares; None where they are no shares.

    Where no table states it, it follows from the test set's standard error e and the mean
    accuracies a and b: (a(1−a) + b(1−b)) / e².
    """
    for comparison, table in found:
        # Paired by images, test_error is there for all columns, also for no shares of images.
        if comparison.test_error is None or (table.images is None and _by_images(comparison)):
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


def _by_images(comparison: Comparison) -> bool:
    return comparison.paired_by == "images"


def _variances(comparison: Comparison, table: Table) -> float:
    """Return a(1−a) + b(1−b) of the mean shares over the seeds that have both."""
    rows = {(row.group, row.label): row for row in table.rows}
    judged = rows[comparison.group, comparison.method]
    other = rows[comparison.baseline_group, comparison.baseline]
    pairs = complete_pairs(*(row.cells[comparison.column].values for row in (judged, other)))
    means = [sum(values) / len(values) for values in zip(*pairs, strict=True)]
    return sum(mean * (1 - mean) for mean in means)


def _higher_is_better(column: Column, comparisons: Sequence[Comparison]) -> bool:
    """Infer it from a decided verdict; the column states it where all are undecided."""
    for each in comparisons:
        if each.verdict in ("better", "worse"):
            return (each.difference > 0) == (each.verdict == "better")
    return column.higher_is_better


def _figure(figure: Figure, seeds: Seeds, joined: bool) -> Figure:
    """Say in the caption which seeds a figure shows, unless an earlier join has."""
    if not joined or DRAWN_FROM.search(figure.caption):
        return figure
    word = "seeds" if len(seeds) > 1 else "seed"
    return replace(figure, caption=f"{figure.caption} Drawn from {word} {_listed(seeds)} alone.")


def _settings(name: str, settings: Sequence[tuple[Seeds, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the settings, which must agree; values by seed are joined."""
    joined = dict(settings[0][1])
    for _, other in settings[1:]:
        _same(f"{name}: names", sorted(joined), sorted(other))
    for key in joined:
        values = [(seeds, each[key]) for seeds, each in settings]
        if all(_by_seed(seeds, value) for seeds, value in values):
            merged = {int(seed): each for _, value in values for seed, each in value.items()}
            joined[key] = {str(seed): merged[seed] for seed in sorted(merged)}
            continue
        for _, value in values[1:]:
            _same(f"{name}: {key!r}", joined[key], value)
    return joined


def _by_seed(seeds: Seeds, value: Any) -> bool:
    """Whether a setting is {seed: value, …} for exactly these seeds."""
    return isinstance(value, Mapping) and {str(key) for key in value} == set(map(str, seeds))


def _either(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join descriptions; values that differ are listed, separated by slashes."""
    joined = {}
    for key in _union(key for record in records for key in record):
        values = [record[key] for record in records if key in record]
        same = all(each == values[0] for each in values)
        joined[key] = values[0] if same else " / ".join(_union(str(each) for each in values))
    return joined


def _same(name: str, first: Any, other: Any) -> None:
    first, other = finite(first), finite(other)  # tuples become lists, as in JSON
    if first == other:
        return
    if isinstance(first, list) and isinstance(other, list):
        # Long lists differ in an entry or two: name those alone.
        lost, new = [x for x in first if x not in other], [x for x in other if x not in first]
        if lost or new:
            first, other = lost, new
    raise ValueError(
        f"{name} differ between the results: {first!r} against {other!r}; only results of the "
        "same scale and settings can be joined."
    )


def _titles(tables: Sequence[Table]) -> list[str]:
    return [table.title for table in tables]


def _labels(table: Table) -> list[tuple[str, str]]:
    return [(row.group, row.label) for row in table.rows]


def _union(values: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))
