"""Tables of the documentation that are too wide for a telephone are marked, the others are kept."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

bs4 = pytest.importorskip("bs4")
wide_tables = importlib.import_module("wide_tables")  # needs bs4
label_cells, too_wide = wide_tables.label_cells, wide_tables.too_wide
DOCS = Path(__file__).resolve().parents[2] / "docs"


def table(head: list[str], *rows: list[str]) -> str:
    """A table as Sphinx writes it; cells may hold markup."""
    names = "".join(f'<th class="head"><p>{name}</p></th>' for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td><p>{cell}</p></td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f'<table class="docutils align-default"><thead><tr>{names}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


WIDE = table(
    ["backend", "images a second", "why"],
    ["<code>fused</code>", "<b>1,204</b>", "a" * 30 + " " + "b" * 31],
    ["autograd", "", "it runs any network, whatever-it-is-made-of-and-however-long"],
)
NARROW = table(["K", "δ"], ["50", "0.25"], ["100", "0.5"])


def test_each_cell_of_a_wide_table_is_labelled_with_its_column():
    marked = bs4.BeautifulSoup(label_cells(WIDE), "html.parser")
    assert marked.table["class"] == ["docutils", "align-default", "too-wide"]
    original = bs4.BeautifulSoup(WIDE, "html.parser")
    cells, before = marked.select("td"), original.select("td")
    names = ["backend", "images a second", "why"]
    assert [cell["data-label"] for cell in cells] == 2 * names
    for cell, old in zip(cells, before, strict=True):
        (inner,) = cell.find_all(recursive=False)  # one box: the label and it share a line
        assert inner.name == "div"
        assert inner.decode_contents() == old.decode_contents()
    assert ["empty" in cell.get("class", []) for cell in cells] == [0, 0, 0, 0, 1, 0]
    assert not marked.select("th[data-label]")


def test_nothing_else_of_a_page_changes():
    other = '<table class="field-list"><tr><td>' + "x" * 99 + "</td></tr></table>"
    page = f"<p>a < b &amp; c</p>\n{NARROW}<br/>{other}\n<p>end</p>"
    assert label_cells(page) == page
    both = label_cells(page + WIDE + page)
    assert both.startswith(page)
    assert both.endswith(page)
    assert both.count("too-wide") == 1


def test_a_row_with_merged_cells_keeps_no_labels():
    wide = WIDE.replace("</tbody>", '<tr><td colspan="3"><p>all of them</p></td></tr></tbody>')
    merged = bs4.BeautifulSoup(label_cells(wide), "html.parser").select("td")[-1]
    assert merged.attrs == {"colspan": "3"}


def test_a_table_is_too_wide_by_its_longest_words_and_by_long_texts_in_many_columns():
    fits = wide_tables.TELEPHONE - 3 * wide_tables.BETWEEN
    assert not too_wide([["a" * (fits - 4), "bb", "cc"]])
    assert too_wide([["a" * (fits - 3), "bb", "cc"]])
    assert not too_wide([["a b " * 20, "b", "c"], ["", "", ""]])  # broken between words
    assert too_wide([["a b " * 20, "b", "c", "d"]])
    assert not too_wide([["a b " * 14, "b", "c", "d"]])


def test_the_style_has_rules_for_the_marks():
    """A class or an attribute that site.css does not know would change nothing on a telephone."""
    style = (DOCS / "_static" / "site.css").read_text(encoding="utf-8")
    (narrow,) = re.findall(r"@media \(max-width: 34em\) \{\n(.*?)\n\}\n", style, re.DOTALL)
    for rule in ("table.too-wide td {", "content: attr(data-label)", "table.too-wide td.empty {"):
        assert rule in narrow
    assert "too-wide" not in style.replace(narrow, "")


def test_the_pages_call_it():
    """Sphinx is not needed for the tests here, so the hook is read, not run."""
    settings = (DOCS / "conf.py").read_text(encoding="utf-8")
    assert 'app.connect("html-page-context", _mark_wide_tables)' in settings
    assert 'context["body"] = label_cells(context.get("body") or "")' in settings
