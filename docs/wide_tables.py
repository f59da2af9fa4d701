"""Mark tables that are too wide for a telephone; `_static/site.css` shows their rows as blocks."""

from __future__ import annotations

import re

from bs4 import BeautifulSoup

TELEPHONE = 55  # characters in a line of a table that is 400 pixels wide
BETWEEN = 2  # of these, what a column's padding takes


def label_cells(page: str) -> str:
    """Give the wide tables of a page the class too-wide, and each cell of theirs its column's name.

    On a telephone, site.css then makes a block of each row, in which a line is a name and a value.

    Args:
        page: The page's HTML, or a part of it. Whatever is outside wide tables stays as it is.
    """
    return re.sub(r'<table class="[^"]*docutils.*?</table>', _labelled, page, flags=re.DOTALL)


def _labelled(table: re.Match[str]) -> str:
    soup = BeautifulSoup(table[0], "html.parser")
    names = [each.get_text(" ", strip=True) for each in soup.select("thead th")]
    rows = [row.find_all("td", recursive=False) for row in soup.select("tbody tr")]
    rows = [cells for cells in rows if len(cells) == len(names)]
    if not too_wide([names, *([c.get_text(" ", strip=True) for c in row] for row in rows)]):
        return table[0]
    soup.table["class"] = [*soup.table["class"], "too-wide"]
    for cells in rows:
        for name, cell in zip(names, cells, strict=True):
            cell["data-label"] = name
            inner = soup.new_tag("div")
            inner.extend(cell.contents[:])
            cell.append(inner)
            if not inner.get_text(strip=True):
                cell["class"] = [*cell.get("class", []), "empty"]
    return str(soup)


def too_wide(rows: list[list[str]]) -> bool:
    """Whether rows of text do not fit a telephone, also if they are broken between words."""
    columns = list(zip(*rows, strict=True))
    words = [
        max(len(word) for text in column for word in [*text.split(), ""]) for column in columns
    ]
    long = any(len(text) > 60 for column in columns for text in column)
    return sum(words) + BETWEEN * len(columns) > TELEPHONE or (long and len(columns) > 3)
