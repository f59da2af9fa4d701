"""A network that never learnt is named at its row and its comparisons, and stays in the numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sign_ext.evaluation import Samples, crossed
from sign_ext.report.lead import families
from sign_ext.report.learnt import compared_without, doubted, doubted_pairs
from sign_ext.report.markdown import render_markdown
from sign_ext.report.merge import merge
from sign_ext.report.results_page import render_results
from sign_ext.report.schema import Cell, Column, Experiment, Results, Row, Table
from sign_ext.report.sentences import sentences
from sign_ext.report.verdict import compare_rows
from sign_ext.report.view import view
from sign_ext.report.wording import LEARNT_READ, reading

IMAGES = 500
GROUP = "BasicCNN, equal gradient steps"
COLUMN = Column("normal", "Normal accuracy", margin=0.01)
ACCURACIES = {"SIGN": (0.61, 0.63, 0.60, 0.62), "mixup": (0.58, 0.62, 0.10, 0.59)}
SEEDS = (1, 2, 3, 4)
REASON = "its best validation accuracy, 9.6% on 250 images, is what guessing gives (10.0% …)"


def made(seeds: tuple[int, ...] = SEEDS, *, kept: bool = True, **doubts: tuple) -> Results:
    """Slice A of these seeds; mixup of seed 3 guesses."""
    rng = np.random.default_rng(8)
    right = {
        (label, seed): rng.permutation(np.arange(IMAGES) < round(accuracy * IMAGES))
        for label, values in ACCURACIES.items()
        for seed, accuracy in zip(SEEDS, values, strict=True)
    }
    rows = []
    for label in ACCURACIES:
        mine = [right[label, seed].astype(float) for seed in seeds]
        samples = tuple(Samples("mean", each).to_text() for each in mine) if kept else ()
        cell = Cell(tuple(float(each.mean()) for each in mine), samples=samples)
        rows.append(Row(label, GROUP, {"normal": cell}, doubts=doubts.get(label, ())))
    told = compare_rows(
        "normal", *rows, images=IMAGES, kind="share", margin=0.01, family="secondary"
    )
    table = Table("Slice A", "Accuracy.", (COLUMN,), tuple(rows), (told,), IMAGES)
    return Results("medium", seeds, (Experiment("slice_a", "A", "", tables=(table,)),))


def table_of(results: Results) -> Table:
    return results.experiments[0].tables[0]


@pytest.mark.parametrize("kept", [True, False])
def test_what_was_not_recorded_follows_from_the_accuracy(kept):
    table = table_of(made(kept=kept))
    sign, mixup = table.rows
    assert doubted(sign, table) == {}
    assert doubted(mixup, table) == {
        2: "its test accuracy, 10.0% on 500 images, is what guessing gives (10.0% of ten classes)"
    }
    assert doubted_pairs(table.comparisons[0], table) == {2: "mixup"}


def test_what_was_recorded_counts():
    table = table_of(made(mixup=("", "", "", REASON)))
    assert doubted(table.rows[1], table) == {3: REASON}
    table = table_of(made(mixup=("", None, None, REASON)))
    assert list(doubted(table.rows[1], table)) == [2, 3]


def test_other_columns_and_tables_are_not_held_against_ten_classes():
    table = table_of(made())
    mixup = table.rows[1]
    cells = {"low": mixup.cells["normal"]}  # a share of something else may well be small
    assert doubted(replace(mixup, cells=cells), table) == {}
    by_class = {"mean": mixup.cells["normal"]}
    row = replace(mixup, cells=by_class)
    assert list(doubted(row, replace(table, title="Table 1"))) == [2]
    assert doubted(row, replace(table, title="Table 3: overall accuracy")) == {}


def test_the_numbers_without_it_are_those_of_the_other_seeds():
    whole, rest = table_of(made()), table_of(made((1, 2, 4)))
    found = compared_without(whole.comparisons[0], whole, {2: "mixup"})
    (expected,) = rest.comparisons
    assert (found.difference, found.low, found.high, found.seeds) == pytest.approx(
        (expected.difference, expected.low, expected.high, 3)
    )
    sign, mixup = (
        [Samples.from_text(text) for text in row.cells["normal"].samples] for row in rest.rows
    )
    d = np.array([a.values - b.values for a, b in zip(sign, mixup, strict=True)]).T
    by_hand = crossed(d.mean(axis=0).tolist(), np.cov(d.T) / IMAGES)
    assert (found.low, found.high) == pytest.approx(by_hand.interval())
    assert compared_without(whole.comparisons[0], whole, dict.fromkeys(range(4), "")) is None


def test_the_row_its_comparisons_and_the_lead_say_so():
    results = made()
    table = table_of(results)
    shown = view(table, seeds=results.seeds)
    sign, mixup = shown.groups[0].rows
    assert (sign.notes, mixup.notes) == ((), (1,))
    assert mixup.cells[0].ours == "47.2", "the number stays in the mean"
    assert shown.notes == (
        "Seed 3 is not shown to have learnt: its test accuracy, 10.0% on 500 images, is what "
        "guessing gives (10.0% of ten classes). The row’s numbers include it. Without it: "
        "59.7 ± 2.1% (Normal accuracy).",
    )
    (compared,) = shown.comparisons
    (rest,) = table_of(made((1, 2, 4))).comparisons
    interval = f"{100 * rest.low:+.2f} to {100 * rest.high:+.2f}".replace("-", "−")
    said = "seed 3 (mixup) is not shown to have learnt; without it 3 seeds have +2.33 points"
    assert compared.doubt == f"{said} ({interval})"
    (family,) = families(results)
    assert f"({said} (" in family.sentences[0]
    (row,) = (
        each for each in sentences(results) if each.text == "SIGN is more accurate than mixup"
    )
    assert row.verdict.numbers.endswith(compared.doubt)
    assert reading(results)[-1] == LEARNT_READ
    page, text = render_results(results), render_markdown(results, {})
    for each in (page, text):
        assert each.count("seed 3 (mixup) is not shown to have learnt") == 3
        assert each.count("Seed 3 is not shown to have learnt") == 1
        assert "leaving it out after looking would be a choice" in each


def test_where_all_learnt_nothing_is_said():
    results = made((1, 2, 4))
    assert view(table_of(results), seeds=results.seeds).notes == ()
    assert LEARNT_READ not in reading(results)
    for text in (render_results(results), render_markdown(results, {})):
        assert "shown to have learnt" not in text


def test_where_no_seed_learnt_nothing_is_left():
    results = made((3,), SIGN=(REASON,))
    (compared,) = view(table_of(results), seeds=results.seeds).comparisons
    assert compared.doubt == (
        "seed 3 (both) is not shown to have learnt, and no other seed is there"
    )
    assert "Without" not in view(table_of(results), seeds=results.seeds).notes[0]


def test_it_is_kept_on_disk_and_joined(tmp_path):
    new = made((3, 4), SIGN=("", ""), mixup=(REASON, ""))
    new.write(tmp_path / "results.json")
    again = Results.read(tmp_path / "results.json")
    assert again == new
    joined = merge([again, made((1, 2))])  # the others were made before it was recorded
    sign, mixup = table_of(joined).rows
    assert (sign.doubts, mixup.doubts) == ((None, None, "", ""), (None, None, REASON, ""))
    assert doubted(mixup, table_of(joined)) == {2: REASON}
    old = merge([made((1, 2)), made((3,))])
    assert table_of(old).rows[0].doubts == ()


def test_the_committed_slices_name_mixup_of_seed_2():
    folder = Path(__file__).parents[2] / "docs" / "results" / "medium"
    table = table_of(merge([Results.read(folder / f"slice_A_seed{seed}.json") for seed in (1, 2)]))
    assert {row.label: list(doubted(row, table)) for row in table.rows} == {
        "Classical": [],
        "mixup": [1],
        "Noise": [],
        "SIGN": [],
    }
    for page in ("results.md", "index.html"):
        text = (folder / "joined" / "slice_a" / page).read_text("utf-8")
        assert "seed 2 (mixup) is not shown to have learnt" in text
