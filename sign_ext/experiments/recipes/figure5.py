"""Figure 5: how compact classes are in feature space, t-SNE maps and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sign_ext.experiments.planner import METHODS, PROTOCOLS, Protocol, StagePlanner
from sign_ext.experiments.recipes.recipe import (
    OutcomesByName,
    Recipe,
    RowSpec,
    StagesByName,
    cell,
    compare_pairs,
    row_specs,
    shown,
    stages_of_rows,
    table_row,
)
from sign_ext.experiments.recipes.summary import findings, settings_used, stand_ins
from sign_ext.experiments.stages.measure import MapFeatures
from sign_ext.experiments.stages.stage import Outcome, Stage
from sign_ext.report.schema import Cell, Column, Experiment, Figure, Table

DEFAULTS: dict[str, Any] = {"network": "mobilenet_v2", "images": 5000}
METHODS_SHOWN = ("classical", "mixup", "sign")
COLUMNS = (
    Column("train_silhouette", "Silhouette, train", "number"),
    Column("train_scatter_ratio", "Scatter ratio, train", "number", higher_is_better=False),
    Column("validation_silhouette", "Silhouette, validation", "number"),
    Column("validation_scatter_ratio", "Scatter ratio, validation", "number", False),
)

ABOUT = """\
Features are the input of the last layer, of original images. The paper shows t-SNE maps and finds
"more compact class representations". A map can mislead, so two numbers go with it, computed in
feature space: the silhouette (−1 to 1, higher is more compact) and the ratio of within-class to
between-class scatter (lower is more compact). Validation images are embedded into the training
images' map."""


def plan(planner: StagePlanner) -> StagesByName:
    """Each method by both protocols with each seed."""
    options = planner.options("figure5", **DEFAULTS)

    def map_features(spec: RowSpec, seed: int) -> Stage:
        trained = planner.train(spec.network, spec.method, seed, protocol=spec.protocol)
        return MapFeatures(trained, options["images"])

    return stages_of_rows(
        planner, row_specs({options["network"]: METHODS_SHOWN}, planner.protocols), map_features
    )


def summarize(planner: StagePlanner, outcomes: OutcomesByName) -> Experiment:
    """The maps of the first seed, and the numbers of all."""
    network = planner.options("figure5", **DEFAULTS)["network"]
    table = _table(planner, network, outcomes)
    return Experiment(
        name="figure5",
        title="Figure 5: feature space",
        about=ABOUT,
        stand_ins=stand_ins(planner, [network]),
        settings=settings_used(planner, [network], outcomes),
        tables=(table,),
        figures=tuple(_maps(planner, network, outcomes, each) for each in shown(planner)),
        findings=findings(table),
    )


def _table(planner: StagePlanner, network: str, outcomes: OutcomesByName) -> Table:
    rows = {
        spec: table_row(planner, spec, outcomes[spec.name], _cells(outcomes[spec.name]))
        for spec in row_specs({network: METHODS_SHOWN}, planner.protocols)
    }
    return Table(
        title="Figure 5 in numbers",
        caption="Compactness of classes in feature space.",
        columns=COLUMNS,
        rows=tuple(rows.values()),
        comparisons=compare_pairs(rows, COLUMNS, None, secondary=("validation_silhouette",)),
    )


def _cells(outcomes: Sequence[Outcome]) -> dict[str, Cell]:
    return {
        column.key: cell(outcomes, *column.key.split("_", 1), samples=column.key)
        for column in COLUMNS
    }


def _maps(
    planner: StagePlanner, network: str, outcomes: OutcomesByName, protocol: Protocol
) -> Figure:
    first_seed = {
        method: outcomes[RowSpec(network, method, protocol).name][0].numbers
        for method in METHODS_SHOWN
    }
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
        for method, numbers in first_seed.items()
    ]
    return Figure(
        title=f"Figure 5, {PROTOCOLS[protocol]}",
        caption="t-SNE of features, first seed; above training, below validation "
        "images, embedded into the map of the training images.",
        alt="Six scatter plots, a column a method: points coloured by class.",
        kind="scatter",
        data={"classes": classes, "panels": panels, "columns": len(METHODS_SHOWN)},
    )


RECIPE = Recipe("figure5", plan, summarize)
