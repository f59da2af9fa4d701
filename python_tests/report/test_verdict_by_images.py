"""Verdicts where each image's answer was kept: from bits to words, families, and joined seeds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from sign_ext.evaluation import Samples, crossed, hierarchical_bootstrap, holm, paired
from sign_ext.report.lead import families, sentence
from sign_ext.report.markdown import render_markdown
from sign_ext.report.merge import merge
from sign_ext.report.results_page import render_results
from sign_ext.report.schema import Cell, Column, Comparison, Experiment, Results, Row, Table
from sign_ext.report.verdict import compare_rows, hold_families
from sign_ext.report.view import comparison_text
from sign_ext.report.wording import reading

IMAGES = 2000
GROUP = "BasicCNN, equal gradient steps"
COLUMN = Column("mean", "Mean", margin=0.01)


def networks(seeds: int, gain: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Right answers (seeds, images) of two methods, which share most of their errors."""
    rng = np.random.default_rng(seed)
    hard = rng.random(IMAGES)
    luck = rng.random((seeds, IMAGES))
    baseline = hard < 0.7 + 0.05 * (luck - 0.5)
    method = hard < 0.7 + gain + 0.05 * (rng.random((seeds, IMAGES)) - 0.5)
    return method, baseline


def row(label: str, right: np.ndarray, kept: bool = True) -> Row:
    samples = tuple(Samples("mean", each.astype(float)).to_text() for each in right)
    values = tuple(float(each.mean()) for each in right)
    return Row(label, GROUP, {"mean": Cell(values, samples=samples if kept else ())})


def compare(method: Row, baseline: Row, **changes: object) -> Comparison:
    options = {"images": IMAGES, "kind": "share", "margin": 0.01} | changes
    return compare_rows("mean", method, baseline, **options)  # type: ignore[arg-type]


def results(seeds: tuple[int, ...], gain: float = 0.03, kept: bool = True) -> Results:
    method, baseline = networks(6, gain)
    rows = tuple(
        row(label, right[list(seeds)], kept)
        for label, right in (("SIGN", method), ("Noise", baseline))
    )
    told = compare(*rows, family="primary"), compare(*rows[::-1], family="secondary")
    table = Table("Table 1", "Accuracy.", (COLUMN,), rows, told, IMAGES)
    return hold_families(Results("small", seeds, (Experiment("e", "E", "", tables=(table,)),)))


def test_all_numbers_are_those_of_the_answers() -> None:
    method, baseline = networks(4, 0.02)
    told = compare(row("SIGN", method), row("Noise", baseline))
    d = (method.astype(float) - baseline).T
    found = crossed(d.mean(axis=0).tolist(), np.cov(d.T) / IMAGES)
    assert told.paired_by == "images"
    assert told.difference == pytest.approx(d.mean())
    assert told.p_value == pytest.approx(found.p_value, rel=1e-6)
    assert (told.low, told.high) == pytest.approx(found.interval())
    assert (told.seed_error, told.test_error) == pytest.approx(
        (found.seed_error, found.image_error)
    )
    assert told.detectable == pytest.approx(found.detectable())
    assert told.equivalence == pytest.approx(found.equivalence(0.01))
    t = paired(method.mean(axis=1).tolist(), baseline.mean(axis=1).tolist())
    assert told.t_p_value == pytest.approx(t.p_value)
    samples = [[Samples("mean", x.astype(float)) for x in side] for side in (method, baseline)]
    ends = hierarchical_bootstrap(d.mean(axis=0).tolist(), *samples)
    assert (told.bootstrap_low, told.bootstrap_high) == pytest.approx(ends)
    assert told.bootstrap_low < told.difference < told.bootstrap_high


def test_pairing_the_images_decides_what_independent_errors_cannot() -> None:
    method, baseline = networks(4, 0.02)
    rows = row("SIGN", method), row("Noise", baseline)
    assert compare(*rows).verdict == "better"
    assert compare(*rows[::-1]).verdict == "worse"
    assert compare(*rows, higher_is_better=False).verdict == "worse"
    old = compare(row("SIGN", method, kept=False), rows[1])
    assert (old.paired_by, old.verdict, old.equivalence) == ("seeds", "undecided", None)


def test_equal_methods_are_found_equal_only_within_a_margin() -> None:
    method, baseline = networks(6, 0.0005, seed=3)
    rows = row("SIGN", method), row("Noise", baseline)
    assert compare(*rows).verdict == "no difference"
    assert compare(*rows, margin=None).verdict == "undecided"
    assert compare(*rows, margin=0.0005).verdict == "undecided"
    one = compare(row("SIGN", method[:1]), row("Noise", baseline[:1]))
    assert (one.verdict, one.p_value, one.seeds) == ("undecided", None, 1)


def test_a_seed_without_a_value_is_left_out_and_one_without_answers_decides_the_way() -> None:
    method, baseline = networks(4, 0.02)
    a, b = row("SIGN", method), row("Noise", baseline)
    cell = a.cells["mean"]
    lacking = replace(cell, values=(None, *cell.values[1:]), samples=("", *cell.samples[1:]))
    found = compare(replace(a, cells={"mean": lacking}), b)
    expected = compare(row("SIGN", method[1:]), row("Noise", baseline[1:]))
    assert found.seeds == 3
    assert found.p_value == pytest.approx(expected.p_value)
    unkept = replace(cell, samples=("", *cell.samples[1:]))
    assert compare(replace(a, cells={"mean": unkept}), b).paired_by == "seeds"


def test_answers_of_other_results_are_refused() -> None:
    method, baseline = networks(3, 0.02)
    a, b = row("SIGN", method), row("Noise", baseline)
    mixed = replace(a, cells={"mean": replace(a.cells["mean"], samples=b.cells["mean"].samples)})
    with pytest.raises(ValueError, match="they belong to other results"):
        compare(mixed, b)


def test_families_are_held_by_holm_over_all_tables() -> None:
    method, baseline = networks(4, 0.02)
    a, b = row("SIGN", method), row("Noise", baseline)
    p_values = (0.004, 0.02, 0.04, 0.3)
    family = ("secondary", "primary", "secondary", "secondary")
    told = [
        replace(compare(a, b, family=name), p_value=p, equivalence=1 - p)
        for name, p in zip(family, p_values, strict=True)
    ]
    told.append(replace(compare(a, b), p_value=0.045))
    tables = [Table("T", "", (COLUMN,), (a, b), tuple(part)) for part in (told[:2], told[2:])]
    experiments = tuple(
        Experiment(name, name, "", tables=(table,), findings=("old",))
        for name, table in zip("ef", tables, strict=True)
    )
    held = hold_families(
        Results("small", (0, 1, 2, 3), experiments),
        lambda table: [c.verdict for c in table.comparisons],
    )
    found = [c for e in held.experiments for t in e.tables for c in t.comparisons]
    adjusted = holm([0.004, 0.04, 0.3])
    assert [c.adjusted for c in found] == [adjusted[0], 0.02, adjusted[1], adjusted[2], None]
    equivalent = holm([0.996, 0.96, 0.7])
    assert found[0].adjusted_equivalence == equivalent[0]
    assert [c.verdict for c in found] == ["better", "better", "undecided", "undecided", "better"]
    assert held.experiments[0].findings == ("better", "better")
    plain = Results("small", (0,), (Experiment("e", "E", "", findings=("kept",)),))
    assert hold_families(plain, lambda table: ["x"]) == plain


def test_joined_seeds_are_judged_as_if_one_run_had_had_them(tmp_path) -> None:
    parts = [results((0, 3)), results((1,)), results((2, 4, 5))]
    for index, part in enumerate(parts):
        part.write(tmp_path / f"{index}.json")
    read = [Results.read(tmp_path / f"{index}.json") for index in range(3)]
    assert read == parts
    joined, whole = merge(read), results((0, 1, 2, 3, 4, 5))
    for a, b in zip(
        joined.experiments[0].tables[0].comparisons,
        whole.experiments[0].tables[0].comparisons,
        strict=True,
    ):
        assert (a.verdict, a.family, a.paired_by, a.seeds) == (b.verdict, b.family, b.paired_by, 6)
        assert a.p_value == pytest.approx(b.p_value)
        assert a.adjusted == pytest.approx(b.adjusted)
    assert joined.experiments[0].tables[0].rows == whole.experiments[0].tables[0].rows


def test_joined_with_results_that_kept_no_answers_the_older_rule_judges() -> None:
    joined = merge([results((0, 1)), results((2,), kept=False)])
    (cell, _) = (each.cells["mean"] for each in joined.experiments[0].tables[0].rows)
    assert cell.samples[2] == "" != cell.samples[0]
    assert {c.paired_by for c in joined.experiments[0].tables[0].comparisons} == {"seeds"}
    assert "images not paired" in render_markdown(joined, {})


def test_the_report_begins_with_the_verdict_in_words() -> None:
    made = results((0, 1, 2, 3, 4, 5))
    primary, secondary = families(made)
    table = made.experiments[0].tables[0]
    told = table.comparisons[0]
    (said,) = primary.sentences
    text = comparison_text(told, table)
    assert said.startswith(f"{GROUP}: SIGN against Noise (Table 1, Mean) {text.difference} points")
    assert said.endswith("better.")
    assert f"95% interval {text.interval}" in said
    assert len(secondary.sentences) == 1
    page, markdown = render_results(made), render_markdown(made, {})
    assert page.index("The verdict") < page.index("What came out")
    assert markdown.index(said[:40]) < markdown.index("## What came out")
    for words in ("bootstrap ", "primary family", "image by image"):
        assert words in page
        assert words in markdown
    plain = replace(made, experiments=())
    assert families(plain) == reading(plain) == ()


@pytest.mark.parametrize(
    ("changes", "end", "because"),
    [
        (
            {"verdict": "no difference", "p_value": 0.4, "equivalence": 0.01},
            "– no difference: within ±1.00 points.",
            "within ±1.00 points",
        ),
        (
            {"p_value": 0.001, "equivalence": 0.002, "verdict": "better"},
            "– better, by less than 1.00 points.",
            "by less than 1.00 points",
        ),
        (
            {"p_value": 0.4, "equivalence": 0.2, "verdict": "undecided", "detectable": 0.0123},
            "– undecided: at these errors, 80% power needs a true difference of 1.23 points.",
            "zero is in the interval, a difference beyond ±1.00 points is not excluded",
        ),
        (
            {"p_value": None, "low": None, "detectable": None, "verdict": "undecided", "seeds": 1},
            "– undecided: one seed.",
            "one seed",
        ),
        (
            {"p_value": 0.03, "adjusted": 0.09, "family": "secondary", "verdict": "undecided"},
            " points.",
            "not after Holm’s correction, a difference beyond ±1.00 points is not excluded, "
            "secondary family",
        ),
    ],
)
def test_sentences_say_what_was_found(changes: dict, end: str, because: str) -> None:
    method, baseline = networks(4, 0.02)
    rows = row("SIGN", method), row("Noise", baseline)
    told = replace(compare(*rows), **changes)
    table = Table("T", "", (COLUMN,), rows, (told,))
    assert sentence(told, table).endswith(end)
    assert comparison_text(told, table).because == because
    assert math.isfinite(told.difference)
