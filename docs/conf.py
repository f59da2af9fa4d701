"""Sphinx settings of the documentation (`make docs`)."""

from __future__ import annotations

import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.matching import patfilter

from sign_ext import __version__

sys.path.insert(0, str(Path(__file__).parent))

from wide_tables import label_cells  # needs the line above

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


def _mark_wide_tables(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    context["body"] = label_cells(context.get("body") or "")


def setup(app: Sphinx) -> None:
    """Connect what is defined here to Sphinx."""
    app.connect("source-read", _drop_globs_without_pages)
    app.connect("html-page-context", _mark_wide_tables)
    app.connect("autodoc-process-docstring", _keep_colons, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", _plain_symbols)
    app.connect("autodoc-skip-member", _skip_aliases)
