"""The files of a report: results.json, results.md, index.html and the Markdown's figures."""

from __future__ import annotations

import re
from pathlib import Path

from sign_ext.files import write_whole
from sign_ext.report.demo_figures import LIGHT
from sign_ext.report.markdown import render_markdown
from sign_ext.report.plots import draw
from sign_ext.report.results_page import render_results
from sign_ext.report.schema import Results

JSON, MARKDOWN, PAGE, FIGURES = "results.json", "results.md", "index.html", "figures"


def write_report(out: Path, results: Results) -> list[Path]:
    """Write OUT/results.json, results.md, index.html and figures/, each file whole or not at all.

    Args:
        out: the folder, which is there; an earlier report's files are replaced.
        results: what `sign-ext reproduce` found.

    Returns:
        The files, results.json first and index.html last, when all else is there.

    Raises:
        ValueError: a figure's data is not that of its kind; results.json is there by then.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> [path.name for path in write_report(folder, Results("smoke", (0,), ()))]
        ['results.json', 'results.md', 'index.html']
    """
    results.write(out / JSON)
    written = [out / JSON]
    names = {}
    for index, experiment in enumerate(results.experiments):
        for place, figure in enumerate(experiment.figures):
            # On white: a Markdown viewer may be dark, and takes one picture only.
            drawing = draw(figure, LIGHT, background="white")
            name = f"{FIGURES}/{file_name(experiment.name)}-{place + 1}{drawing.suffix}"
            (out / FIGURES).mkdir(exist_ok=True)
            write_whole(out / name, drawing.content)
            names[index, place] = name
            written.append(out / name)
    write_whole(out / MARKDOWN, render_markdown(results, names))
    write_whole(out / PAGE, render_results(results))
    return [*written, out / MARKDOWN, out / PAGE]


def file_name(name: str) -> str:
    """Make an experiment's name fit for a file: letters, digits, "-" and "_" only.

    Example:
        >>> file_name("../table 1")
        'table-1'
    """
    return re.sub(r"[^\w-]+", "-", name).strip("-") or "experiment"
