"""The page of results: every number as it should be written, valid HTML, nothing from elsewhere."""

from __future__ import annotations

import re
import statistics
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from results_example import CLASSES, GROUPS, METHODS, PAPER, accuracy, make_results

from sign_ext.bounded_cache import BoundedCache
from sign_ext.report import plots, results_page
from sign_ext.report.plots import Drawing, Theme
from sign_ext.report.results_page import file_name, render_results, write_report
from sign_ext.report.schema import Figure, Results

VOID = {"meta", "link", "img", "source", "br"}


class Page(HTMLParser):
    """Collects tags, text and table rows; a tag that is closed wrongly is an error."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            assert "tr" in self.open
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def cells(self, head: str) -> list[list[str]]:
        """The rows whose first cell is `head`, without it."""
        rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]
        return [row[1:] for row in rows if row and row[0] == head]


@pytest.fixture(scope="module")
def html() -> str:
    return render_results(make_results())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture(scope="module")
def paper_page() -> Page:
    """The same at the paper's scale, at which differences to its numbers are shown."""
    return Page(render_results(replace(make_results(), scale="paper")))


def test_differences_to_the_paper_are_shown_at_its_scale(page: Page, paper_page: Page) -> None:
    assert page.cells("ours − paper") == []
    assert page.cells("paper") == paper_page.cells("paper") != []
    assert len(paper_page.cells("ours − paper")) == len(paper_page.cells("paper"))


def test_nothing_is_loaded_and_nothing_runs(html: str) -> None:
    for _, attributes in Page(html).tags:
        for name in ("src", "srcset", "data", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:")
        assert (attributes.get("href") or "#").startswith(("#", "data:"))
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"url\(|@import|https?://", html)
    assert "<script" not in html


def test_structure_and_descriptions(page: Page) -> None:
    pictures = page.all("img")
    assert len(pictures) == 4 * 10 - 1 + 3  # a picture is missing in the last row of samples
    assert all(picture["alt"] for picture in pictures)
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(h["scope"] in ("row", "col", "rowgroup") for h in page.all("th"))
    named = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(named)) == len(named)
    for link in page.all("a"):
        assert (link["href"] or "").removeprefix("#") in named
    widths = {len(row) for row in page.rows if row and row[0] in (*METHODS, "paper")}
    assert widths <= {13, 5}  # with the row's name: 12 columns of Table 1, 4 of Table 2


def test_every_number_of_table_1(paper_page: Page) -> None:
    page = paper_page
    seeds = (0, 1, 2)
    paper = page.cells("paper")
    differences = page.cells("ours − paper")
    for m, method in enumerate(METHODS):
        name = f"{method} 1" if method == "mixup" else method  # a note's number
        found = page.cells(name)
        assert len(found) == len(GROUPS)
        for g in range(len(GROUPS)):
            for k in range(len(CLASSES)):
                values = [accuracy(g, m, seed) - 0.03 * (k % 4) for seed in seeds]
                mean, spread = 100 * statistics.fmean(values), 100 * statistics.stdev(values)
                assert found[g][k] == f"{mean:.1f} ± {spread:.1f}"
            assert found[g][11] == ("35,200", "105,600")[g]
        for k in range(len(CLASSES)):
            values = [accuracy(0, m, seed) - 0.03 * (k % 4) for seed in seeds]
            theirs = PAPER[method] - 0.02 * (k % 3)
            assert paper[m][k] == f"{100 * theirs:.1f}"
            difference = f"{100 * (statistics.fmean(values) - theirs):+.1f}"
            assert differences[m][k] == difference.replace("-", "−")
        assert paper[m][11] == differences[m][11] == ""


def test_missing_values_counts_and_numbers_of_table_2(paper_page: Page) -> None:
    page = paper_page
    ours = page.cells("Classical <Φ>")[0]
    sigma = [4.5, 4.51, 4.54]
    assert ours[0] == "43.2 ± 0.0 2 of 3 seeds"
    assert ours[1] == "207 ± 7"
    assert ours[2] == f"{statistics.fmean(sigma):.3f} ± {statistics.stdev(sigma):.3f}"
    assert ours[3] == "0.7643 ± 0.0010"
    paper, difference = page.cells("paper")[3], page.cells("ours − paper")[3]
    assert paper == ["42.0", "212", "5.120", "0.7611"]
    assert difference[1:] == [
        "−5",
        f"{statistics.fmean(sigma) - 5.12:+.3f}".replace("-", "−"),
        "+0.0032",
    ]
    (long,) = [row for row in page.rows if row[0].startswith("SIGN with a label")][:1]
    assert long[1].strip() == "–"
    assert "no image is left: its mean does not exist" in page.text


def test_comparisons_are_those_of_the_results(page: Page) -> None:
    told = make_results().experiments[0].tables[0].comparisons
    rows = [[" ".join(c.split()) for c in row] for row in page.rows if len(row) == 8][1:5]
    for comparison, row in zip(told, rows, strict=True):
        assert comparison.low is not None
        assert comparison.high is not None
        assert comparison.detectable is not None
        assert comparison.test_error is not None
        interval = f"{100 * comparison.low:+.2f} to {100 * comparison.high:+.2f}"
        expected = [
            "Mean, points",
            f"{100 * comparison.difference:+.2f}",
            interval.replace("-", "−"),
        ]
        assert row[1:4] == expected
        assert row[5:7] == [
            f"{100 * comparison.detectable:.2f}",
            f"{100 * comparison.test_error:.2f}",
        ]
        assert row[7].startswith(comparison.verdict)
    assert rows[0][0] == "SIGN against ClassicalMobileNetV2, equal epochs"
    assert rows[3][0] == f"SIGN ({GROUPS[1]}) against Classical ({GROUPS[0]})"


def test_words_stand_where_they_should(page: Page) -> None:
    text = page.text
    for said in (
        "Stand-in: digits for CIFAR-10",
        "basic_cnn <small> for MobileNetV2",
        "SIGN < mixup & Classical, first finding.",
        "Table 2 & figures: Φ, δ and what <they> do",
        "λ of Beta(0.2, 0.2) & nothing else",
        "step size 30.5, 31.5, 32.5 (one a seed)",
        "snapshots 50, 100",
        "sign-ext reproduce --only table1 --out 'a <b>'",
        "Computing took 1 h 06 min",
        "classify-000f3a9c",
        "3 seeds (0, 1, 2)",
        "commit 0123abc+changes",
        "torch 9.8.7",
        "on NVIDIA H100",
        "tiny & <real>",
        "Not the paper’s scale.",
    ):
        assert said in text
    assert text.count("A third finding.") == 1  # the summary shows two
    assert text.count("A second finding.") == 2


def test_one_seed_has_no_spread() -> None:
    page = Page(render_results(make_results(seeds=(4,))))
    assert "±" not in page.text.replace("± is", "")
    assert "its spread is not known" in page.text
    assert page.cells("Classical")[0][10] == f"{100 * accuracy(0, 0, 4):.1f}"
    assert "undecidedone seed" in "".join(page.texts)


def test_a_page_without_anything_is_still_one() -> None:
    text = Page(render_results(Results("paper", (0,), ()))).text
    assert "Not the paper’s scale" not in text
    assert "In smaller type" not in text
    assert "not from a checkout" in text


def test_figures_that_do_not_fit_their_kind_are_named() -> None:
    for kind in ("lines", "scatter", "reliability", "samples"):
        broken = Figure("Figure 9", "", "x", kind, {"lines": [{}]})  # type: ignore[arg-type]
        results = make_results()
        first = replace(results.experiments[0], figures=(broken,))
        with pytest.raises(ValueError, match=r"'Figure 9'.*schema"):
            render_results(replace(results, experiments=(first,)))


def test_write_report_leaves_whole_files_that_can_be_read_again(tmp_path: Path) -> None:
    results = make_results()
    files = write_report(tmp_path, results)
    assert [str(path.relative_to(tmp_path)) for path in files] == [
        "results.json",
        *("figures/uncertainty-1.png", "figures/uncertainty-2.svg"),
        *("figures/uncertainty-3.svg", "figures/uncertainty-4.svg"),
        *("results.md", "index.html"),
    ]
    assert sorted(files) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    again = Results.read(files[0])
    assert again.experiments[0].tables == results.experiments[0].tables
    assert again.experiments[1].tables == results.experiments[1].tables
    before = {path: path.read_bytes() for path in files}
    write_report(tmp_path, again)
    assert {path: path.read_bytes() for path in files} == before


def test_a_figure_is_drawn_once_until_its_data_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports are written after each experiment, with all figures before it."""
    asked: list[str] = []

    def draw(figure: Figure, theme: Theme, *, background: str | None = None) -> Drawing:
        asked.append(figure.title)
        return plots.draw(figure, theme, background=background)

    monkeypatch.setattr(results_page, "draw", draw)
    monkeypatch.setattr(results_page, "_drawings", BoundedCache(100))
    results = make_results()
    figures = [figure for each in results.experiments for figure in each.figures]
    # A file on white, and for the page, which shows samples as a table, a light and a dark one.
    wanted = [f.title for f in figures for _ in range(1 if f.kind == "samples" else 3)]
    write_report(tmp_path, results)
    assert sorted(asked) == sorted(wanted)
    before = (tmp_path / "index.html").read_bytes()
    write_report(tmp_path, results)
    assert sorted(asked) == sorted(wanted)
    assert (tmp_path / "index.html").read_bytes() == before

    def renamed(figure: Figure) -> Figure:
        return replace(figure, data={**figure.data, "y": "other"})

    changed = [
        replace(e, figures=tuple(renamed(f) if f.kind == "lines" else f for f in e.figures))
        for e in results.experiments
    ]
    write_report(tmp_path, replace(results, experiments=tuple(changed)))
    lines = [figure.title for figure in figures if figure.kind == "lines"]
    assert sorted(asked[len(wanted) :]) == sorted(3 * lines)
    assert lines


def test_names_of_experiments_cannot_leave_the_folder() -> None:
    assert file_name("../../etc/x") == "etc-x"
    assert file_name("..") == "experiment"
    assert file_name("table_1") == "table_1"


def test_read_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    for text, says in [
        ("{", "is not valid JSON"),
        ("[1]", "holds no results"),
        ('{"format": "sign_ext.results", "format_version": 99}', "format version 99"),
        ('{"format": "sign_ext.results", "format_version": 1}', "scale is missing"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=says):
            Results.read(path)
