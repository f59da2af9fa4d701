"""Section 3.1, ISIC-2017: area under the ROC curve for melanoma or not."""

from __future__ import annotations

from typing import Any

from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.recipes import published
from sign_ext.experiments.recipes.recipe import Found, Plan, Recipe, cell
from sign_ext.experiments.recipes.rows import comparisons, entries, row
from sign_ext.experiments.recipes.summary import findings, settings, stand_ins
from sign_ext.experiments.stages.measure import RocAuc
from sign_ext.report.schema import Column, Experiment, Table

DEFAULTS: dict[str, Any] = {"networks": {"inception_resnet_v2": ("none", "sign_alone")}}
COLUMNS = (
    Column("validation", "Validation AUC", "number"),
    Column("test", "Test AUC", "number"),
    Column("accuracy", "Test accuracy"),
)

ABOUT = """\
Melanoma or not, on dermoscopic images. As in the paper nothing is augmented, so that SIGN alone
makes the difference, and the epoch is the one of the highest validation accuracy. Only about a
fifth of the images are melanomas, so that accuracy says little and AUC is what counts; with so
few positive images it varies much from seed to seed."""


def plan(planner: StagePlanner) -> Plan:
    """Baseline and SIGN with each seed, by both protocols."""
    networks = planner.options("isic", **DEFAULTS)["networks"]
    return {
        entry.name: tuple(
            RocAuc(planner.train(entry.network, entry.method, seed, protocol=entry.protocol))
            for seed in planner.seeds
        )
        for entry in entries(networks)
    }


def summarize(planner: StagePlanner, found: Found) -> Experiment:
    """The AUCs, with comparisons."""
    networks = planner.options("isic", **DEFAULTS)["networks"]
    rows = {}
    for entry in entries(networks):
        theirs = published.ISIC.get(entry.method, {}) if entry.protocol == "epochs" else {}
        outcomes = found[entry.name]
        cells = {
            "validation": cell(outcomes, "validation", paper=theirs.get("validation")),
            "test": cell(outcomes, "test", paper=theirs.get("test")),
            "accuracy": cell(outcomes, "test_accuracy"),
        }
        rows[entry] = row(planner, entry, found, cells)
    numbers = next(iter(found.values()))[0].numbers
    table = Table(
        title="ISIC-2017 (Section 3.1)",
        caption=f"Area under the ROC curve on {numbers['validation_images']:,} validation and "
        f"{numbers['test_images']:,} test images.",
        columns=COLUMNS,
        rows=tuple(rows.values()),
        comparisons=comparisons(rows, COLUMNS[:2], None),
    )
    return Experiment(
        name="isic",
        title="ISIC-2017: melanoma classification (Section 3.1)",
        about=ABOUT,
        stand_ins=stand_ins(planner, networks),
        settings=settings(planner, networks, found),
        tables=(table,),
        findings=findings(table),
    )


RECIPE = Recipe("isic", plan, summarize)
