"""The paper's sentences: which numbers decide each, in which words, and where they are shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from sign_ext.evaluation import Samples
from sign_ext.experiments.names import EXPERIMENTS
from sign_ext.report.markdown import render_markdown, sentence_table
from sign_ext.report.results_page import render_results
from sign_ext.report.schema import Cell, Column, Experiment, Results, Row, Table
from sign_ext.report.sentences import (
    SENTENCES,
    Judgement,
    SentenceRow,
    all_sentences,
    sentences,
)
from sign_ext.report.verdict import compare_rows

IMAGES = 400
STEPS, EPOCHS = "Net, equal gradient steps", "Net, equal epochs"


def right(rng, share: float, like: np.ndarray | None = None) -> np.ndarray:
    """Right answers with this share; those of another network where they need not differ."""
    if like is None:
        return (np.arange(IMAGES) < round(share * IMAGES)).astype(float)
    changed = like.copy()
    wanted = round(share * IMAGES) - int(like.sum())
    where = np.flatnonzero(like == (0 if wanted > 0 else 1))
    changed[rng.choice(where, abs(wanted), replace=False)] = float(wanted > 0)
    return changed


def table(rng, shares: dict[tuple[str, str], list[float]], margin: float = 0.05) -> Table:
    """Table 1 from the shares of each (group, method) and seed."""
    base = right(rng, 0.5)
    rows = []
    for (group, method), by_seed in shares.items():
        answers = [right(rng, share, base) for share in by_seed]
        cell = Cell(
            tuple(float(each.mean()) for each in answers),
            paper={"SIGN": 0.86}.get(method, 0.85) if group == EPOCHS else None,
            samples=tuple(Samples("mean", each).to_text() for each in answers),
        )
        rows.append(Row(method, group, {"mean": cell}))
    return Table("Table 1", "", (Column("mean", "Mean", margin=margin),), tuple(rows), (), IMAGES)


def results(*tables: Table) -> Results:
    return Results("small", (0, 1, 2), (Experiment("table1", "Table 1", "", tables=tables),))


@pytest.mark.parametrize(
    ("sign", "word"),
    [
        ([0.70, 0.71, 0.72], "holds"),
        ([0.30, 0.31, 0.29], "does not hold"),
        ([0.50, 0.5025, 0.4975], "does not hold"),  # within the margin of 5 points
        ([0.45, 0.55, 0.60], "undecided"),
    ],
)
def test_a_sentence_has_the_verdict_of_its_comparison(rng, sign, word):
    made = table(rng, {(STEPS, "Classical"): [0.5, 0.5025, 0.4975], (STEPS, "SIGN"): sign})
    (row,) = (r for r in sentences(results(made)) if "classical" in r.text and r.verdict)
    assert row.subject == "Net"
    assert row.verdict.word == word
    compared = compare_rows(
        "mean", made.rows[1], made.rows[0], images=IMAGES, kind="share", margin=0.05
    )
    shown = f"{100 * compared.low:+.2f} to {100 * compared.high:+.2f}".replace("-", "−")
    assert shown in row.verdict.numbers
    assert row.at_epochs is None


def test_protocols_are_told_apart_and_the_papers_difference_is_its_own(rng):
    made = table(
        rng,
        {
            (STEPS, "Classical"): [0.5, 0.51, 0.5],
            (STEPS, "SIGN"): [0.3, 0.31, 0.32],
            (EPOCHS, "Classical"): [0.5, 0.51, 0.5],
            (EPOCHS, "SIGN"): [0.7, 0.71, 0.72],
        },
    )
    (row,) = (r for r in sentences(results(made)) if "classical" in r.text and r.verdict)
    assert (row.verdict.word, row.at_epochs.word) == ("does not hold", "holds")
    assert row.paper == "+1.00"  # 0.86 − 0.85, which the paper has at equal epochs


def test_one_seed_decides_nothing(rng):
    made = table(rng, {(STEPS, "Classical"): [0.4], (STEPS, "SIGN"): [0.9]})
    assert {r.verdict.word for r in sentences(results(made)) if r.verdict} == {"undecided"}


def test_less_can_be_what_a_sentence_says():
    title = "Table 2: # images with p ≤ 0.5"
    columns = (Column("share", "of right answers", "share", False),)

    def row(label: str, *values: float) -> Row:
        return Row(label, STEPS, {"share": Cell(values)})

    made = Table(
        title,
        "",
        columns,
        (
            row("Classical", 0.3, 0.31, 0.32),
            row("mixup", 0.5, 0.52, 0.51),
            row("SIGN", 0.1, 0.12, 0.1),
        ),
    )
    words = {r.text: r.verdict.word for r in sentences(results(made))}
    assert words["with SIGN, fewer right answers are uncertain (p ≤ 0.5)"] == "holds"
    assert words["with mixup, more right answers are uncertain (p ≤ 0.5)"] == "holds"
    worse = Table(
        title,
        "",
        columns,
        (row("Classical", 0.1, 0.12, 0.11), row("SIGN", 0.3, 0.31, 0.33)),
    )
    assert [r.verdict.word for r in sentences(results(worse))] == ["does not hold"]


def test_the_last_k_counts():
    columns = (Column("contrast", "Contrast", "number"), Column("edges", "Edges", "number"))

    def row(label: str, *values: float) -> Row:
        return Row(label, "Φ = Net", {"contrast": Cell(values), "edges": Cell(values)})

    made = Table(
        "Figure 3 in numbers",
        "",
        columns,
        (
            row("before", 1, 1.1, 1.2),
            row("after K = 50", 9, 9.1, 9.2),
            row("after K = 100", 2, 2.1, 2.3),
        ),
    )
    found = sentences(results(made))
    assert len(found) == 2
    assert all(each.verdict.numbers.startswith("+1.0") for each in found)


def test_delta_alone_is_compared_with_chance_by_seeds_and_images():
    values = (0.142, 0.139, 0.151)
    made = Table(
        "δ alone (Section 3.1)",
        "",
        (Column("accuracy", "Accuracy"),),
        (Row("δ alone", "Net", {"accuracy": Cell(values, paper=0.462)}),),
    )
    (row,) = sentences(results(made))
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert row.verdict.word == "holds"
    few = replace(made, caption="Accuracy on 1,000 test images.")
    (wider,) = sentences(results(few))
    share = np.mean(values)
    by_images = share * (1 - share) / 1000  # shared by all seeds
    total = stats.sem(values) ** 2 + by_images
    freedom = (total / stats.sem(values) ** 2) ** 2 * 2
    half = stats.t.ppf(0.975, freedom) * np.sqrt(total)
    ends = f"{100 * (share - half):.1f} to {100 * (share + half):.1f}"
    assert wider.verdict.numbers == f"14.4% ({ends}) against 10.0"
    assert row.verdict.numbers == f"14.4% ({100 * low:.1f} to {100 * high:.1f}) against 10.0"
    assert row.paper == "46.2"


def test_what_no_results_have_is_not_run_and_the_first_results_come_first(rng):
    made = table(rng, {(STEPS, "Classical"): [0.5, 0.5, 0.51], (STEPS, "SIGN"): [0.7, 0.7, 0.72]})
    first, second = results(made), results(made)
    found = all_sentences([first, second])
    assert {row.text for _, row in found} == {each.text for each in SENTENCES}
    classical = [r for r, row in found if row.text.endswith("than classical augmentation") and r]
    assert classical == [first, second]
    assert all(row.verdict is None for r, row in found if r is None)
    assert len([r for r, _ in found if r is None]) == len(SENTENCES) - 1


def test_the_page_and_the_text_have_the_verdicts(rng):
    made = table(rng, {(STEPS, "Classical"): [0.5, 0.5, 0.51], (STEPS, "SIGN"): [0.7, 0.7, 0.72]})
    page, text = render_results(results(made)), render_markdown(results(made), {})
    (row,) = (r for r in sentences(results(made)) if r.verdict)
    for shown in (page, text):
        assert row.text in shown
        assert row.verdict.numbers in shown
    assert '<span class="holds">holds</span>' in page
    assert page.index("The paper’s sentences") < page.index("What came out")
    assert "1 verdict: 1 holds, 0 do not hold, 0 undecided" in text


def test_columns_that_no_sentence_fills_are_left_out():
    judged = Judgement("undecided", "+1.00 points", 2)
    rows = [
        SentenceRow("a", "1", "net", judged, paper="+0.87"),
        SentenceRow("b", "2", "net", judged, at_epochs=judged),
    ]

    def heads(*some: SentenceRow) -> list[str]:
        return [head.strip() for head in sentence_table(some).splitlines()[0].split("|")[5:-1]]

    assert heads(*rows) == ["Equal epochs", "The paper’s number"]
    assert heads(rows[0]) == ["The paper’s number"]
    assert heads(rows[1]) == ["Equal epochs"]
    assert heads(SentenceRow("c", "3", "net", judged)) == []
    assert sentence_table(rows).splitlines()[3].count("|") == 7


def test_every_sentence_is_about_a_table_that_some_experiment_makes():
    """Titles are written in recipes: one that is reworded there would silently be "not run"."""
    from pathlib import Path

    import sign_ext.experiments.recipes as recipes

    sources = "".join(path.read_text("utf-8") for path in Path(recipes.__path__[0]).glob("*.py"))
    for sentence in SENTENCES:
        for title, _ in sentence.tables:
            name = title.partition(":")[2].strip() or title
            starts = ("Figure 3", "Figure 4")
            known = name.replace(" in numbers", "") if name.startswith(starts) else name
            assert known in sources or title.startswith("Slice"), title
    assert {
        "phi_answers",
        "inputs_used",
        "cancel_attack",
        "sign_at_inference",
    } <= EXPERIMENTS.keys()
