"""The page of `sign-ext reproduce`: one self-contained HTML file, made from a Results alone."""

from __future__ import annotations

from typing import Any

from sign_ext.report.demo_figures import DARK, LIGHT
from sign_ext.report.html import environment
from sign_ext.report.plots import draw, fitting
from sign_ext.report.samples import data_uri
from sign_ext.report.schema import Experiment, Figure, Results
from sign_ext.report.view import view
from sign_ext.report.wording import (
    HINTS,
    P_VALUES,
    SCALES,
    made_with,
    seeds_of,
    settings_of,
    spread_of,
)

TEMPLATE = "results.html.j2"


def render_results(results: Results) -> str:
    """Return the page's HTML; everything it shows is inside it.

    Args:
        results: what `sign-ext reproduce` found.

    Raises:
        ValueError: a figure's data is not that of its kind.
    """
    experiments = [
        _experiment(i, each, results.seeds) for i, each in enumerate(results.experiments, 1)
    ]
    tables = [table for each in experiments for table in each["tables"]]
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            results=results,
            experiments=experiments,
            seeds=seeds_of(results),
            spread=spread_of(results),
            scale_notice=SCALES.get(results.scale, ""),
            settings=settings_of(results.settings, results.seeds),
            made=made_with(results),
            in_paper=any(table.in_paper for table in tables),
            compared=any(table.comparisons for table in tables),
            p_values=P_VALUES,
        )
    )


def _experiment(number: int, experiment: Experiment, seeds: tuple[int, ...]) -> dict[str, Any]:
    return {
        "anchor": f"experiment-{number}",
        "title": experiment.title,
        "about": experiment.about,
        "stand_ins": experiment.stand_ins,
        "findings": experiment.findings,
        "tables": [view(table) for table in experiment.tables],
        "figures": [_figure(figure) for figure in experiment.figures],
        "settings": settings_of(experiment.settings, seeds),
        "command": experiment.command,
        "seconds": experiment.seconds,
    }


def _figure(figure: Figure) -> dict[str, Any]:
    """Return what the template shows: a table of images, or a light and a dark picture."""
    words = {"title": figure.title, "caption": figure.caption, "alt": figure.alt}
    words["hint"] = HINTS.get(figure.kind, "")
    if figure.kind == "samples":
        with fitting(figure):
            return {**words, "samples": _samples(figure.data)}
    light = draw(figure, LIGHT)
    return {
        **words,
        "samples": None,
        "light": data_uri(light.content, light.kind),
        "dark": data_uri(draw(figure, DARK).content, light.kind),
        "width": light.width,
        "height": light.height,
    }


def _samples(data: Any) -> dict[str, Any]:
    """Return the images row by row, each with its description; a row may lack its last ones."""
    rows = []
    for row in data["rows"]:
        pictures: list[dict[str, str] | None] = [
            {"uri": f"data:image/png;base64,{image}", "alt": f"{label}, {row['label']}"}
            for label, image in zip(data["columns"], row["images"], strict=False)
        ]
        pictures += [None] * (len(data["columns"]) - len(pictures))
        rows.append({"label": row["label"], "pictures": pictures})
    return {"columns": data["columns"], "rows": rows}
