"""SIGN at inference: are trained networks more often right about p* than about p?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sign_ext.experiments.planner import METHODS, StagePlanner
from sign_ext.experiments.recipes.recipe import (
    OutcomesByName,
    Recipe,
    RowSpec,
    StagesByName,
    row_specs,
    stages_of_rows,
    table_row,
)
from sign_ext.experiments.recipes.summary import settings_used, stand_ins
from sign_ext.experiments.recipes.versions import compare, k_label, settled, version_cell
from sign_ext.experiments.stages.stage import Outcome, Stage
from sign_ext.experiments.stages.versions import ClassifyVersions
from sign_ext.report.schema import Column, Experiment, Row, Table

DEFAULTS: dict[str, Any] = {
    "networks": {
        "mobilenet_v2": ["classical", "sign"],
        "basic_cnn": ["classical", "sign"],
    },
}
TITLE = "SIGN at inference"
QUESTION = "Does SIGN help at inference?"
MEAN = "mean"

ABOUT = """\
The paper contrasts SIGN with its parent, which needs true labels and therefore a second network at
inference time: SIGN "does not require ground truth labels for mapping" (Section 1), so test images
can be transformed, too. The paper does not try it. Here trained networks classify p*_K of the test
images, from the Φ that made the training images’ p* (which neither network is), instead of p, and
p together with all p*_K, by the mean of their probabilities."""


def plan(planner: StagePlanner) -> StagesByName:
    """Each network by each protocol on the test images’ p*."""
    networks = planner.options("sign_at_inference", **DEFAULTS)["networks"]

    def classify(spec: RowSpec, seed: int) -> Stage:
        trained = planner.train(spec.network, spec.method, seed, protocol=spec.protocol)
        versions = planner.transform(planner.phi(spec.network, seed), part="test")
        return ClassifyVersions(trained, versions)

    return stages_of_rows(planner, row_specs(networks, planner.protocols), classify)


def summarize(planner: StagePlanner, outcomes: OutcomesByName) -> Experiment:
    """The table, with comparisons to the same network on p."""
    networks = planner.options("sign_at_inference", **DEFAULTS)["networks"]
    table = inference_table(planner, outcomes, row_specs(networks, planner.protocols))
    return Experiment(
        name="sign_at_inference",
        title="SIGN at inference (not in the paper)",
        about=ABOUT,
        stand_ins=stand_ins(planner, networks),
        settings=settings_used(planner, networks, outcomes),
        tables=(table,),
        findings=findings_of(table),
    )


def inference_table(
    planner: StagePlanner, outcomes: OutcomesByName, specs: Sequence[RowSpec]
) -> Table:
    """The table, with comparisons to the same network on p.

    Args:
        planner: has the scale.
        outcomes: of a `ClassifyVersions` a seed, by the rows' names.
        specs: the rows.
    """
    columns = (
        Column("accuracy", "Accuracy", margin=planner.scale.margins.accuracy),
        Column("probability", "Probability of the true class"),
    )
    rows: list[Row] = []
    pairs: dict[tuple[str, str], None] = {}
    for spec in specs:
        of_spec = _rows(planner, spec, outcomes[spec.name], columns)
        first, *others = of_spec
        pairs |= dict.fromkeys((row.label, first.label) for row in others)
        rows += of_spec
    images = outcomes[specs[0].name][0].numbers["images"]
    return Table(
        title=TITLE,
        caption=f"Answers on {images:,} test images.",
        columns=columns,
        rows=tuple(rows),
        comparisons=compare(rows, list(pairs), columns, images),
        images=images,
    )


def _rows(
    planner: StagePlanner, spec: RowSpec, outcomes: Sequence[Outcome], columns: Sequence[Column]
) -> list[Row]:
    like = table_row(planner, spec, outcomes, {})
    name = METHODS[spec.method].label
    found = []
    for version in outcomes[0].numbers["versions"]:
        cells = {column.key: version_cell(outcomes, version, column.key) for column in columns}
        label = f"{name}: mean of all" if version == MEAN else k_label(version, name)
        found.append(replace(like, label=label, cells=cells))
    return found


def findings_of(table: Table) -> tuple[str, ...]:
    """The answer, from the comparisons of each way to classify with p alone."""
    return settled(table, QUESTION, [(c.method, c.baseline) for c in table.comparisons])


RECIPE = Recipe("sign_at_inference", plan, summarize)
