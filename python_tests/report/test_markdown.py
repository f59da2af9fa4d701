"""The report as Markdown: tables that GitHub reads, numbers, escapes, pictures that are there."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import pytest
from results_example import METHODS, PAPER, accuracy, make_results

from sign_ext.report.markdown import escaped, render_markdown
from sign_ext.report.results_page import write_report

NAMES = {(1, i): f"figures/f-{i}.svg" for i in range(4)}


@pytest.fixture(scope="module")
def text() -> str:
    return render_markdown(make_results(), NAMES)


def tables(text: str) -> list[list[list[str]]]:
    """Every table as rows of cells; a bar that is escaped belongs to its cell."""
    blocks = [block for block in text.split("\n\n") if block.startswith("|")]
    return [
        [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in block.splitlines()]
        for block in blocks
    ]


def test_tables_are_rectangular(text: str) -> None:
    for table in tables(text):
        assert len({len(row) for row in table}) == 1
        assert set("".join(table[1])) <= set("-:")


def test_numbers_stand_beside_the_papers(text: str) -> None:
    first, second = tables(text)[1:3]  # after the paper’s sentences
    for m, method in enumerate(METHODS):
        name = f"{method} <sup>1</sup>" if method == "mixup" else method
        values = [accuracy(0, m, seed) for seed in (0, 1, 2)]
        ours = f"{100 * statistics.fmean(values):.1f} ± {100 * statistics.stdev(values):.1f}"
        assert first[2 + m][0] == second[2 + m][0] == name
        assert first[2 + m][11] == f"{ours} (paper {100 * PAPER[method]:.1f})"
        assert first[2 + m][12] == "35,200"
        values = [accuracy(1, m, seed) for seed in (0, 1, 2)]
        ours = f"{100 * statistics.fmean(values):.1f} ± {100 * statistics.stdev(values):.1f}"
        assert second[2 + m][11] == ours
    assert first[0][11:] == ["Mean, %", "Gradient steps"]
    third = next(t for t in tables(text) if t[0][-1] == "AUC")
    assert third[2][1:3] == ["43.2 ± 0.0 (2 of 3 seeds, paper 42.0)", "207 ± 7 (paper 212)"]
    assert third[3][1] == "–"


def test_what_a_reader_needs_is_there(text: str) -> None:
    for said in (
        "> **Stand-in:** basic\\_cnn &lt;small&gt; for MobileNetV2",
        "- SIGN &lt; mixup &amp; Classical, first finding.",
        "Uncertainty of images that are right with p ≤ 0.5 \\| and a bar.",
        "1. λ of Beta(0.2, 0.2) &amp; nothing else",
        "```sh\nsign-ext reproduce --only table1 --out 'a <b>'\n```",
        "`classify-000f3a9c`, `train-0077be21`",
        "| step size | 30.5, 31.5, 32.5 (one a seed) |",
        "undecided: within twice the test set’s error",
        "**Figure 6.** Corruption at several strengths.",
        "| commit | 0123abc+changes |",
    ):
        assert said in text


def test_pictures_are_described_and_there(tmp_path: Path) -> None:
    write_report(tmp_path, make_results())
    text = (tmp_path / "results.md").read_text("utf-8")
    pictures = re.findall(r"!\[((?:\\.|[^\]])+)\]\(([^)]+)\)", text)
    assert len(pictures) == 4
    for alt, name in pictures:
        assert alt
        assert (tmp_path / name).is_file()


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("a|b", r"a\|b"),
        ("<b> & *c* _d_ `e`", r"&lt;b&gt; &amp; \*c\* \_d\_ \`e\`"),
        ("two\nlines  and\tmore", "two lines and more"),
        ("[x](y) #1 $z$ ~w~ \\", r"\[x\](y) \#1 \$z\$ \~w\~ " + "\\\\"),
    ],
)
def test_text_is_not_read_as_markdown(given: str, written: str) -> None:
    assert escaped(given) == written
