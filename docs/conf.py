"""Sphinx settings of the documentation (`make docs`)."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup
from sphinx.application import Sphinx
from sphinx.util.matching import patfilter

from sign_ext import __version__

project = "sign_ext"
author = "The sign_ext authors"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",  # the docstrings' Args, Returns and Raises
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",  # cards and columns
    "sphinx_gallery.gen_gallery",  # runs the tutorials
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "tutorials", "learn/**/*.ipynb", "learn/**/*.py"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

# The tutorials' networks are small: one thread is as fast, and the machine stays usable.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Of libraries to each other: no reader can do anything about them.
warnings.filterwarnings("ignore", category=FutureWarning)
warnings.filterwarnings("ignore", category=DeprecationWarning)
sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "learn",
    "filename_pattern": r"/\d\d_",
    "within_subsection_order": "FileNameSortKey",
    "capture_repr": (),  # only what is printed or drawn
    "remove_config_comments": True,
    "default_thumb_file": str(Path(__file__).parent / "images" / "demo_samples.png"),
    "image_scrapers": ("matplotlib",),
    "min_reported_time": 10_000,
    "write_computation_times": False,
    "show_memory": False,
    "show_signature": False,
    "abort_on_example_error": True,
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes of dataclasses are documented once

html_show_copyright = False
html_theme = "furo"
html_title = "sign_ext"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#a34700",
        "color-brand-content": "#9a4300",
    },
    "dark_css_variables": {
        "color-brand-primary": "#f08c42",
        "color-brand-content": "#f5a05c",
    },
}


COLON = "\ue000"  # stands for one while napoleon reads a docstring


def _keep_colons(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Hide colons of what is returned: napoleon would take the words before one for a type."""
    for before, number in zip(lines, range(1, len(lines)), strict=False):
        if before.strip() in ("Returns:", "Yields:"):
            lines[number] = lines[number].replace(":", COLON)


def _plain_symbols(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Escape Φ_*, Φ_{*,p}, |δ| and f|_p, in which reStructuredText would read markup."""
    for number, line in enumerate(lines):
        line = re.sub(r"(?<=[_{])\*", r"\\*", line.replace(COLON, ":"))
        line = re.sub(r"(^\s+|: )([A-Za-z])\.(?=$| )", r"\1\2\\.", line)  # "K." begins no list
        if not line.lstrip().startswith((">>>", "...")):
            prose = re.split(r"(`+[^`]*`+)", line)  # literals are the odd parts
            prose[::2] = [re.sub(r"\|(?=\S)", r"\\|", part) for part in prose[::2]]
            line = "".join(prose)
        lines[number] = line


def _skip_aliases(
    app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    """Leave out the fields of named tuples, which their classes document already."""
    return True if (obj.__doc__ or "").startswith("Alias for field number") else None


def _drop_globs_without_pages(app: Sphinx, page: str, source: list[str]) -> None:
    """Leave out the toctree entries of pages that a checkout lacks: Sphinx warns of them."""
    if page == "index":
        known = app.env.found_docs
        source[0] = "\n".join(
            line
            for line in source[0].split("\n")
            if not re.fullmatch(r"[\w/]*(\[!\w\])?\*", line) or list(patfilter(known, line))
        )


TELEPHONE = 55  # characters in a line of a table that is 400 pixels wide
BETWEEN = 2  # of these, what a column's padding takes


def _label_cells(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Mark tables that are too wide for a telephone, and give each cell its column's name.

    There, site.css makes a block of each of their rows, in which a line is a name and a value.
    """

    def labelled(table: re.Match[str]) -> str:
        soup = BeautifulSoup(table[0], "html.parser")
        names = [each.get_text(" ", strip=True) for each in soup.select("thead th")]
        rows = [row.find_all("td", recursive=False) for row in soup.select("tbody tr")]
        rows = [cells for cells in rows if len(cells) == len(names)]
        if not _too_wide([names, *([c.get_text(" ", strip=True) for c in row] for row in rows)]):
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

    pattern = r'<table class="[^"]*docutils.*?</table>'
    context["body"] = re.sub(pattern, labelled, context.get("body") or "", flags=re.DOTALL)


def _too_wide(rows: list[list[str]]) -> bool:
    """Whether rows of text do not fit a telephone, also if they are broken between words."""
    columns = list(zip(*rows, strict=True))
    words = [
        max(len(word) for text in column for word in [*text.split(), ""]) for column in columns
    ]
    long = any(len(text) > 60 for column in columns for text in column)
    return sum(words) + BETWEEN * len(columns) > TELEPHONE or (long and len(columns) > 3)


def setup(app: Sphinx) -> None:
    """Connect what is defined here to Sphinx."""
    app.connect("source-read", _drop_globs_without_pages)
    app.connect("html-page-context", _label_cells)
    app.connect("autodoc-process-docstring", _keep_colons, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", _plain_symbols)
    app.connect("autodoc-skip-member", _skip_aliases)
