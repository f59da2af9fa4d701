"""Sphinx settings of the documentation (`make docs`)."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from sphinx.application import Sphinx

with (Path(__file__).parent.parent / "pyproject.toml").open("rb") as file:
    _project = tomllib.load(file)["project"]

project = "sign_ext"
author = "The sign_ext authors"
release = version = _project["version"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # the docstrings' Args, Returns and Raises
    "sphinx.ext.viewcode",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "results"]  # results are pages of their own
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes of dataclasses are documented once

html_theme = "furo"
html_title = f"sign_ext {release}"


def _plain_symbols(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Escape Φ_*, Φ_{*,p} and |δ|: reStructuredText reads emphasis and substitutions in them."""
    for number, line in enumerate(lines):
        line = re.sub(r"(?<=[_{])\*", r"\\*", line)
        prose = re.split(r"(`+[^`]*`+)", line)  # literals are the odd parts
        prose[::2] = [re.sub(r"\|(?=\S)([^|]*\S)\|", r"\\|\1\\|", part) for part in prose[::2]]
        lines[number] = "".join(prose)


def setup(app: Sphinx) -> None:
    """Connect what is defined here to Sphinx."""
    app.connect("autodoc-process-docstring", _plain_symbols)
