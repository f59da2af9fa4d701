"""Section 3.1, ISIC-2017: area under the ROC curve for melanoma or not."""

from __future__ import annotations

from typing import Any

from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.recipes import published
from sign_ext.experiments.recipes.recipe import (
    OutcomesByName,
    Recipe,
    RowSpec,
    StagesByName,
    cell,
    compare_pairs,
    paper_numbers,
    row_specs,
    stages_of_rows,
    table_row,
)
from sign_ext.experiments.recipes.summary import findings, settings_used, stand_ins
from sign_ext.experiments.stages.measure import MeasureRocAuc
from sign_ext.experiments.stages.stage import Stage
from sign_ext.formatting import counted
from sign_ext.report.schema import Column, Experiment, Table

DEFAULTS: dict[str, Any] = {"networks": {"inception_resnet_v2": ("none", "sign_alone")}}

ABOUT = """\
Melanoma or not, on dermoscopic images. As in the paper nothing is augmented, so that SIGN alone
makes the difference. Only about a fifth of the images are melanomas, so accuracy says little and
AUC is what counts; with so few positive images it varies much from seed to seed. The checkpoint is
the one with the highest validation AUC: by accuracy, as the paper has it, a network that calls
everything benign would often be selected."""


def plan(planner: StagePlanner) -> StagesByName:
    """Baseline and SIGN with each seed, by both protocols."""
    networks = planner.options("isic", **DEFAULTS)["networks"]

    def measure(spec: RowSpec, seed: int) -> Stage:
        return MeasureRocAuc(planner.train(spec.network, spec.method, seed, protocol=spec.protocol))

    return stages_of_rows(planner, row_specs(networks, planner.protocols), measure)


def summarize(planner: StagePlanner, outcomes: OutcomesByName) -> Experiment:
    """The AUCs, with comparisons."""
    networks = planner.options("isic", **DEFAULTS)["networks"]
    rows = {}
    for spec in row_specs(networks, planner.protocols):
        paper, of_row = paper_numbers(published.ISIC, spec), outcomes[spec.name]
        cells = {
            part: cell(of_row, part, paper=paper.get(part), samples=part)
            for part in ("validation", "test")
        }
        cells["accuracy"] = cell(of_row, "test_accuracy")
        rows[spec] = table_row(planner, spec, of_row, cells)
    numbers = next(iter(outcomes.values()))[0].numbers
    margin = planner.scale.margins.auc
    areas = (
        Column("validation", "Validation AUC", "number", margin=margin),
        Column("test", "Test AUC", "number", margin=margin),
    )
    table = Table(
        title="ISIC-2017 (Section 3.1)",
        caption=f"Area under the ROC curve on {numbers['validation_images']:,} validation and "
        f"{counted(numbers['test_images'], 'test image')}.",
        columns=(*areas, Column("accuracy", "Test accuracy")),
        rows=tuple(rows.values()),
        comparisons=compare_pairs(rows, areas, None, secondary=("test",)),
    )
    return Experiment(
        name="isic",
        title="ISIC-2017: melanoma classification (Section 3.1)",
        about=ABOUT,
        stand_ins=stand_ins(planner, networks),
        settings=settings_used(planner, networks, outcomes),
        tables=(table,),
        findings=findings(table),
    )


RECIPE = Recipe("isic", plan, summarize)
