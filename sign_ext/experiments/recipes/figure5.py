"""Figure 5: how compact classes are in feature space, t-SNE maps and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.recipes.methods import METHODS
from sign_ext.experiments.recipes.recipe import Found, Plan, Recipe, cell
from sign_ext.experiments.recipes.rows import Entry, comparisons, entries, row
from sign_ext.experiments.recipes.summary import findings, settings, stand_ins
from sign_ext.experiments.stages.measure import FeatureMap
from sign_ext.experiments.stages.runner import Outcome
from sign_ext.report.schema import Cell, Column, Experiment, Figure, Table

DEFAULTS: dict[str, Any] = {"network": "mobilenet_v2", "images": 5000}
SHOWN = ("classical", "mixup", "sign")
COLUMNS = (
    Column("train_silhouette", "Silhouette, train", "number"),
    Column("train_scatter_ratio", "Scatter ratio, train", "number", higher_is_better=False),
    Column("validation_silhouette", "Silhouette, validation", "number"),
    Column("validation_scatter_ratio", "Scatter ratio, validation", "number", False),
)

ABOUT = """\
Features are the input of the last layer, of original images. The paper shows t-SNE maps and finds
"more compact class representations"; a map can mislead, so two numbers stand with it, computed in
feature space: the silhouette (−1 to 1, higher is more compact) and the ratio of within-class to
between-class scatter (lower is more compact). Validation images are embedded into the training
images' map."""


def plan(planner: StagePlanner) -> Plan:
    """Each method by both protocols with each seed."""
    options = planner.options("figure5", **DEFAULTS)
    return {
        entry.name: tuple(
            FeatureMap(
                planner.train(entry.network, entry.method, seed, protocol=entry.protocol),
                options["images"],
            )
            for seed in planner.seeds
        )
        for entry in entries({options["network"]: SHOWN})
    }


def summarize(planner: StagePlanner, found: Found) -> Experiment:
    """The maps of the first seed, and the numbers of all."""
    network = planner.options("figure5", **DEFAULTS)["network"]
    table = _table(planner, network, found)
    return Experiment(
        name="figure5",
        title="Figure 5: feature space",
        about=ABOUT,
        stand_ins=stand_ins(planner, [network]),
        settings=settings(planner, [network], found),
        tables=(table,),
        figures=(_maps(planner, network, found),),
        findings=findings(table),
    )


def _table(planner: StagePlanner, network: str, found: Found) -> Table:
    rows = {
        entry: row(planner, entry, found, _cells(found[entry.name]))
        for entry in entries({network: SHOWN})
    }
    caption = "Compactness of classes in feature space."
    told = comparisons(rows, COLUMNS, None)
    return Table("Figure 5 in numbers", caption, COLUMNS, tuple(rows.values()), told)


def _cells(outcomes: Sequence[Outcome]) -> dict[str, Cell]:
    return {column.key: cell(outcomes, *column.key.split("_", 1)) for column in COLUMNS}


def _maps(planner: StagePlanner, network: str, found: Found) -> Figure:
    outcomes = {m: found[Entry(network, m, "epochs").name][0].numbers for m in SHOWN}
    task = planner.task(network)
    classes = list(planner.sources.read(planner.source(task)).class_names)
    panels = [
        {
            "title": f"{METHODS[method].label}, {part}",
            "x": [point[0] for point in numbers[part]["map"]],
            "y": [point[1] for point in numbers[part]["map"]],
            "label": numbers[part]["labels"],
        }
        for part in ("train", "validation")
        for method, numbers in outcomes.items()
    ]
    return Figure(
        title="Figure 5",
        caption="t-SNE of features, first seed, equal epochs; above training, below validation "
        "images, embedded into the map of the training images.",
        alt="Six scatter plots, a column a method: points coloured by class.",
        kind="scatter",
        data={"classes": classes, "panels": panels, "columns": len(SHOWN)},
    )


RECIPE = Recipe("figure5", plan, summarize)
