"""The report of `sign-ext reproduce`: its files, and its page, one self-contained HTML file."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from sign_ext.bounded_cache import BoundedCache
from sign_ext.files import write_whole
from sign_ext.report.lead import families
from sign_ext.report.markdown import render_markdown
from sign_ext.report.plots import DARK, LIGHT, Drawing, Theme, draw, figure_errors
from sign_ext.report.schema import Experiment, Figure, Results
from sign_ext.report.sentences import count_words, sentences
from sign_ext.report.view import data_uri, environment, view
from sign_ext.report.wording import (
    HINTS,
    SCALES,
    computing,
    describe_spread,
    format_seeds,
    format_settings,
    provenance,
    reading,
)

PAPER_SCALE = "paper"
TEMPLATE = "results.html.j2"
JSON, MARKDOWN, PAGE, FIGURES = "results.json", "results.md", "index.html", "figures"
DRAWINGS_KEPT = 100  # the report of all experiments has about 70, of some 100 kB each

_drawings: BoundedCache[tuple[str, Theme, str | None], Drawing] = BoundedCache(DRAWINGS_KEPT)


def write_report(out: Path, results: Results) -> list[Path]:
    """Write OUT/results.json, results.md, index.html and figures/, each file whole or not at all.

    Args:
        out: an existing folder; an earlier report in it is replaced.
        results: what `sign-ext reproduce` measured.

    Returns:
        The files in the order they were written: results.json first, index.html last.

    Raises:
        ValueError: a figure's data is not that of its kind; results.json has been written.

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
            # On white, because Markdown takes one picture for light and dark viewers.
            drawing = drawn(figure, LIGHT, background="white")
            name = f"{FIGURES}/{file_name(experiment.name)}-{place + 1}{drawing.suffix}"
            (out / FIGURES).mkdir(exist_ok=True)
            write_whole(out / name, drawing.content)
            names[index, place] = name
            written.append(out / name)
    write_whole(out / MARKDOWN, render_markdown(results, names))
    write_whole(out / PAGE, render_results(results))
    return [*written, out / MARKDOWN, out / PAGE]


def drawn(figure: Figure, theme: Theme, *, background: str | None = None) -> Drawing:
    """A figure's drawing, kept for the next report.

    `sign-ext reproduce` writes the report after each experiment, with all figures before it.

    Args:
        figure: of any kind.
        theme, background: as for `plots.draw`.

    Raises:
        ValueError: data that is not that of its kind.
    """
    try:
        content = json.dumps([figure.kind, figure.data], sort_keys=True)
    except (TypeError, ValueError):  # data that no results.json can hold
        return draw(figure, theme, background=background)
    key = (hashlib.sha256(content.encode()).hexdigest(), theme, background)
    return _drawings.get_or_make(key, lambda: draw(figure, theme, background=background))


def file_name(name: str) -> str:
    """Turn an experiment's name into a file name: letters, digits, "-" and "_" only.

    Example:
        >>> file_name("../table 1")
        'table-1'
    """
    return re.sub(r"[^\w-]+", "-", name).strip("-") or "experiment"


def render_results(results: Results) -> str:
    """Return the page's HTML, self-contained.

    Args:
        results: what `sign-ext reproduce` measured.

    Raises:
        ValueError: a figure's data is not that of its kind.
    """
    experiments = [_experiment(i, each, results) for i, each in enumerate(results.experiments, 1)]
    tables = [table for each in experiments for table in each["tables"]]
    told = sentences(results)
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            results=results,
            experiments=experiments,
            seeds=format_seeds(results),
            spread=describe_spread(results),
            scale_notice=SCALES.get(results.scale, ""),
            settings=format_settings(results.settings, results.seeds),
            made=provenance(results),
            in_paper=any(table.in_paper for table in tables),
            differences=results.scale == PAPER_SCALE,
            reading=reading(results),
            families=families(results),
            sentences=told,
            sentence_counts=count_words(told),
        )
    )


def _experiment(number: int, experiment: Experiment, results: Results) -> dict[str, Any]:
    return {
        "anchor": f"experiment-{number}",
        "title": experiment.title,
        "about": experiment.about,
        "stand_ins": experiment.stand_ins,
        "findings": experiment.findings,
        "tables": [
            view(table, seeds=results.seeds, differences=results.scale == PAPER_SCALE)
            for table in experiment.tables
        ],
        "figures": [_figure(figure) for figure in experiment.figures],
        "settings": format_settings(experiment.settings, results.seeds),
        "command": experiment.command,
        "computing": computing(experiment),
    }


def _figure(figure: Figure) -> dict[str, Any]:
    """Return what the template shows: a table of images, or a light and a dark picture."""
    texts = {"title": figure.title, "caption": figure.caption, "alt": figure.alt}
    texts["hint"] = HINTS.get(figure.kind, "")
    if figure.kind == "samples":
        with figure_errors(figure):
            return {**texts, "samples": _samples(figure.data)}
    light = drawn(figure, LIGHT)
    return {
        **texts,
        "samples": None,
        "light": data_uri(light.content, light.kind),
        "dark": data_uri(drawn(figure, DARK).content, light.kind),
        "width": light.width,
        "height": light.height,
    }


def _samples(data: Any) -> dict[str, Any]:
    """Return the images row by row with their descriptions; short rows are filled with None."""
    rows = []
    for row in data["rows"]:
        pictures: list[dict[str, str] | None] = [
            {"uri": f"data:image/png;base64,{image}", "alt": f"{label}, {row['label']}"}
            for label, image in zip(data["columns"], row["images"], strict=False)
        ]
        pictures += [None] * (len(data["columns"]) - len(pictures))
        rows.append({"label": row["label"], "pictures": pictures})
    return {"columns": data["columns"], "rows": rows}
