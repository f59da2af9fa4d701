"""Table 5: accuracy with pixels turned off and with Gaussian noise."""

from __future__ import annotations

from typing import Any

from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.recipes import published, table1
from sign_ext.experiments.recipes.recipe import Found, Plan, Recipe, cell
from sign_ext.experiments.recipes.rows import Entry, classified, comparisons, entries, row
from sign_ext.experiments.recipes.summary import findings, settings, stand_ins
from sign_ext.report.schema import Cell, Column, Experiment, Table

# Column → where it is in an evaluation.
COLUMNS = {"normal": "accuracy", "pixels_off": "pixels_off_mean", "noise": "noise_mean"}

ABOUT = """\
The networks of Table 1, with corrupted test images: {pixels} random pixels of each image set to 0
in all channels, and Gaussian noise of standard deviation {sigma:g} grey levels (the paper gives
no unit; images here run from 0 to 255). Each is drawn {draws} times with its own seed, the same
for every network; a cell is the mean over the draws. The paper's deviations, of 1e-5 or so, are
those of its own repeated draws; ours are over training seeds, which matter more."""


def plan(planner: StagePlanner) -> Plan:
    """The rows of Table 1."""
    return classified(planner, entries(planner.options("table5", **table1.DEFAULTS)["networks"]))


def summarize(planner: StagePlanner, found: Found) -> Experiment:
    """The table, with comparisons in every column."""
    networks, scale = planner.options("table5", **table1.DEFAULTS)["networks"], planner.scale
    images = next(iter(found.values()))[0].numbers["images"]
    columns = (
        Column("normal", "Normal accuracy"),
        Column("pixels_off", f"{scale.pixels} pixels off"),
        Column("noise", f"Noise σ = {scale.sigma:g}"),
    )
    rows = {entry: row(planner, entry, found, _cells(entry, found)) for entry in entries(networks)}
    table = Table(
        title="Table 5",
        caption=f"Accuracy on {images:,} test images, clean and corrupted.",
        columns=columns,
        rows=tuple(rows.values()),
        images=images,
        comparisons=comparisons(rows, columns, images),
    )
    return Experiment(
        name="table5",
        title="Table 5: robustness to pixels turned off and to noise",
        about=ABOUT.format(pixels=scale.pixels, sigma=scale.sigma, draws=scale.draws),
        stand_ins=stand_ins(planner, networks),
        settings=settings(planner, networks, found),
        tables=(table,),
        findings=findings(table),
    )


def _cells(entry: Entry, found: Found) -> dict[str, Cell]:
    theirs: dict[str, Any] = {}
    if entry.protocol == "epochs":
        theirs = (published.for_network(published.TABLE5, entry.network) or {}).get(
            entry.method, {}
        )
    return {
        key: cell(found[entry.name], name, paper=theirs.get(key)) for key, name in COLUMNS.items()
    }


RECIPE = Recipe("table5", plan, summarize)
