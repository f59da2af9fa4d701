"""Joining results over seeds: as if one run had had all seeds; what does not fit is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from results_example import make_results, with_experiment

from sign_ext.report.merge import merge
from sign_ext.report.schema import Cell, Comparison, Results, Table
from sign_ext.report.verdict import compare_rows


def bare(results: Results) -> Results:
    """Without what a slice cannot know: figures and findings are of their seeds."""
    experiments = tuple(replace(e, figures=(), findings=()) for e in results.experiments)
    return replace(results, experiments=experiments, seconds=0.0)


def close(a: Comparison, b: Comparison) -> bool:
    numbers = ("difference", "deviation", "p_value", "low", "high", "detectable", "test_error")
    same = replace(a, **{name: getattr(b, name) for name in numbers}) == b
    return same and all(
        getattr(a, name) == pytest.approx(getattr(b, name), abs=1e-12) for name in numbers
    )


@pytest.mark.parametrize(
    "slices",
    [[(0,), (1,), (2,)], [(2,), (0, 1)], [(0, 2), (1,)], [(2, 1), (0,)]],
    ids=str,
)
def test_slices_become_the_whole(slices: list[tuple[int, ...]]) -> None:
    whole = make_results((0, 1, 2))
    joined = merge([make_results(seeds) for seeds in slices])
    assert joined.seeds == (0, 1, 2)
    for mine, other in zip(bare(joined).experiments, bare(whole).experiments, strict=True):
        assert mine.settings == other.settings
        for table, expected in zip(mine.tables, other.tables, strict=True):
            assert replace(table, comparisons=()) == replace(expected, comparisons=())
            pairs = zip(table.comparisons, expected.comparisons, strict=True)
            assert all(close(a, b) for a, b in pairs)
    assert joined.seconds == pytest.approx(4042.0 * len(slices))
    assert (joined.scale, joined.data, joined.settings) == (whole.scale, whole.data, whole.settings)


def test_joining_in_steps_is_joining_at_once() -> None:
    one, two, three = (make_results((seed,)) for seed in (0, 1, 2))
    at_once = merge([one, two, three])
    in_steps = merge([merge([one, three]), two])
    # The cells are the same; what stands in words says how it was joined.
    assert [e.tables for e in bare(in_steps).experiments] == [
        e.tables for e in bare(at_once).experiments
    ]


def test_images_follow_from_the_test_sets_error_where_no_table_has_them() -> None:
    def without(results: Results) -> Results:
        tables = tuple(replace(t, images=None) for t in results.experiments[0].tables)
        return with_experiment(results, 0, tables=tables)

    joined = merge([without(make_results((0,))), without(make_results((1, 2)))])
    told = joined.experiments[0].tables[0].comparisons
    expected = make_results((0, 1, 2)).experiments[0].tables[0].comparisons
    assert all(close(a, b) for a, b in zip(told, expected, strict=True))


def test_images_follow_where_a_seed_lacks_a_value_and_are_whole() -> None:
    def lacking(results: Results, **changes: Any) -> Results:
        known = results.experiments[0].tables[0].rows[0].cells["mean"].values
        results = changed_cell(results, values=(None, *known[1:]))
        rows = results.experiments[0].tables[0].rows
        told = compare_rows("mean", rows[2], rows[0], images=333, kind="share")
        return changed_table(results, images=None, comparisons=(replace(told, **changes),))

    slices = [lacking(make_results((0, 1, 2))), lacking(make_results((3, 4)))]
    (joined,) = merge(slices).experiments[0].tables[0].comparisons
    rows = merge(slices).experiments[0].tables[0].rows
    expected = compare_rows("mean", rows[2], rows[0], images=333, kind="share")
    assert joined.seeds == 3
    assert close(joined, expected)
    slices[0] = lacking(make_results((0, 1, 2)), test_error=0.0123)
    with pytest.raises(ValueError, match="test_error would be that of"):
        merge(slices)


def test_whether_higher_is_better_is_taken_from_the_verdicts_or_the_column() -> None:
    slices = [make_results((0, 1, 2)), make_results((3, 4))]
    assert slices[0].experiments[1].tables[0].comparisons[0].verdict == "better"
    sigma = merge(slices).experiments[1].tables[0].comparisons[0]
    assert (sigma.column, sigma.verdict, sigma.seeds) == ("sigma", "better", 5)
    assert sigma.difference < 0

    # From single seeds nothing was decided, so the column's own word counts.
    singles = [make_results((seed,)) for seed in range(5)]
    assert {r.experiments[1].tables[0].comparisons[0].verdict for r in singles} == {"undecided"}
    assert merge(singles).experiments[1].tables[0].comparisons[0].verdict == "better"


def test_findings_figures_and_commands_say_where_they_are_from() -> None:
    slices = [make_results((0,)), make_results((1, 2))]

    def summarize(table: Table) -> list[str]:
        return [
            f"{table.title}: {len(table.comparisons)} comparisons, {c.seeds}"
            for c in table.comparisons
        ]

    joined = merge(slices, summarize=summarize)
    assert joined.experiments[0].findings == ("Table 1: 4 comparisons, 3",) * 4
    assert [f.caption for f in joined.experiments[1].figures][:1] == [
        "Before and after SIGN. Drawn from seed 0 alone."
    ]
    kept = merge(slices).experiments[0].findings
    assert kept[0] == "Seed 0: SIGN < mixup & Classical, first finding."
    assert kept[3] == "Seeds 1, 2: SIGN < mixup & Classical, first finding."
    again = merge([joined, make_results((3,))])
    assert again.experiments[1].figures[0].caption.count("Drawn from") == 1
    assert joined.experiments[0].command == slices[0].experiments[0].command
    other = replace(slices[1], commit="fff", command="other", machine={"device": "cpu", "cores": 2})
    joined = merge([slices[0], other])
    assert joined.commit == "0123abc+changes, fff"
    assert joined.command.split("\n") == [slices[0].command, "other"]
    assert joined.machine == {"device": "cuda:0 / cpu", "gpu": "NVIDIA H100", "cores": "16 / 2"}


def only(results: Results, *names: str) -> Results:
    return replace(results, experiments=tuple(e for e in results.experiments if e.name in names))


def test_experiments_of_one_result_alone_are_kept() -> None:
    seeds = (0, 1)
    parts = [only(make_results(seeds), "uncertainty"), only(make_results(seeds), "table1")]
    joined = merge(parts)
    assert joined.seeds == seeds
    assert {e.name: e for e in joined.experiments} == {
        e.name: e for e in make_results(seeds).experiments
    }
    # Joined beside one that is whole already: both end with the same seeds.
    parts = [make_results((0,)), only(make_results((1,)), "table1")]
    parts.append(only(make_results((1,)), "uncertainty"))
    joined = merge(parts)
    assert [e.name for e in joined.experiments] == ["table1", "uncertainty"]
    assert joined.seeds == (0, 1)


def test_experiments_keep_their_order() -> None:
    def named(*names: str) -> Results:
        kind = make_results((0,)).experiments[0]
        return Results("small", (0,), tuple(replace(kind, name=name) for name in names))

    joined = merge([named("b", "e"), named("c"), named("a"), named("d")])
    assert [e.name for e in joined.experiments] == ["b", "e", "c", "a", "d"]
    slices = [replace(named(*names), seeds=(i,)) for i, names in enumerate(("bd", "abcde"))]
    slices.append(replace(named("a", "c", "e"), seeds=(0,)))
    assert [e.name for e in merge(slices).experiments] == ["a", "b", "c", "d", "e"]


def test_values_follow_the_seeds_also_where_nothing_is_joined() -> None:
    parts = [only(make_results((1, 0)), "table1"), only(make_results((0, 1)), "uncertainty")]
    joined = merge(parts)
    assert joined.seeds == (0, 1)
    expected = make_results((0, 1)).experiments[0]
    assert [t.rows for t in joined.experiments[0].tables] == [t.rows for t in expected.tables]
    assert joined.experiments[0].findings == expected.findings


def test_one_result_is_left_as_it_is() -> None:
    results = make_results((2, 0))
    assert merge([results]) is results
    with pytest.raises(ValueError, match="at least one"):
        merge([])


def test_rows_that_only_the_paper_has_are_kept() -> None:
    def papers(results: Results) -> Results:
        (table,) = results.experiments[0].tables
        row = replace(table.rows[0], cells={k: Cell((), 0.5) for k in table.rows[0].cells})
        return with_experiment(results, 0, tables=(replace(table, rows=(row,), comparisons=()),))

    joined = merge([papers(make_results((0,))), papers(make_results((1,)))])
    assert joined.experiments[0].tables[0].rows[0].cells["mean"] == Cell((), 0.5)


def changed_table(results: Results, **changes: Any) -> Results:
    table = replace(results.experiments[0].tables[0], **changes)
    return with_experiment(results, 0, tables=(table,))


def changed_cell(results: Results, **changes: Any) -> Results:
    table = results.experiments[0].tables[0]
    cells = {**table.rows[0].cells, "mean": replace(table.rows[0].cells["mean"], **changes)}
    row = replace(table.rows[0], cells=cells)
    return changed_table(results, rows=(row, *table.rows[1:]))


SECOND = make_results((1,))
FIRST = SECOND.experiments[0]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (make_results((0,)), "'table1' has seed 0 in more than one"),
        (make_results((1, 0)), "seed 0 in more than one"),
        (replace(SECOND, scale="paper"), "scale differ .*'small' against 'paper'"),
        (
            replace(SECOND, settings={"train_size": 6000, "learning_rate": 0.05}),
            "5000 against 6000",
        ),
        (replace(SECOND, settings={"train_size": 5000}), "'learning_rate'"),
        (
            with_experiment(SECOND, 0, settings={**FIRST.settings, "epochs": 7}),
            "'table1': settings: 'epochs' differ .*100 against 7",
        ),
        (
            with_experiment(SECOND, 0, settings={**FIRST.settings, "step_size": {"0": 3.0}}),
            "'step_size'",
        ),
        (with_experiment(SECOND, 0, title="Table 9"), "title differ .*Table 9"),
        (with_experiment(SECOND, 0, stand_ins=()), "stand-ins differ .*digits for CIFAR-10"),
        (with_experiment(SECOND, 0, tables=()), r"tables differ .*'Table 1'\] against \[\]"),
        (changed_table(SECOND, images=5), "images differ .*1000 against 5"),
        (changed_table(SECOND, rows=FIRST.tables[0].rows[:-1]), "rows differ"),
        (changed_table(SECOND, columns=FIRST.tables[0].columns[1:]), "columns differ .*airplane"),
        (changed_cell(SECOND, paper=0.5), "column 'mean': the paper's number differ"),
        (changed_cell(SECOND, values=(0.5, 0.6)), "2 values for 1 seed"),
        (only(SECOND, "table1"), "table1: 0, 1; uncertainty: 0.*add the missing results"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_difference(other: Results, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        merge([make_results((0,)), other])


def test_a_comparison_of_rows_that_are_not_there_is_refused() -> None:
    def wrong(results: Results) -> Results:
        told = results.experiments[0].tables[0].comparisons
        return changed_table(results, comparisons=(replace(told[0], method="nobody"),))

    with pytest.raises(ValueError, match="compares 'nobody'"):
        merge([wrong(make_results((0,))), wrong(make_results((1,)))])
