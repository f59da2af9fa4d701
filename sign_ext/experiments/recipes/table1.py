"""Table 1: accuracy by class and overall on CIFAR-10."""

from __future__ import annotations

from typing import Any

from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.recipes import published
from sign_ext.experiments.recipes.recipe import Found, Plan, Recipe, cell
from sign_ext.experiments.recipes.rows import Entry, classified, comparisons, entries, row
from sign_ext.experiments.recipes.summary import findings, settings, stand_ins
from sign_ext.report.schema import Column, Experiment, Table

MOBILE = ("classical", "mixup", "sign", "sign_alone")
BASIC = ("classical", "mixup", "sign", "sign_alone", "deepaugment", "deepaugment_sign")
DEFAULTS: dict[str, Any] = {
    "networks": {"mobilenet_v2": MOBILE, "mobilenet_v2_stride8": MOBILE, "basic_cnn": BASIC}
}

ABOUT = """\
Each network is trained from scratch by each method and measured on test images, at the epoch that
is best on validation images. SIGN's training set is the originals joined with p*_K for two K, so
in as many epochs it takes three times as many gradient steps: the paper's protocol (equal epochs)
stands first, and below it all methods with as many gradient steps. The paper does not say whether
SIGN's images also get classical augmentation: "SIGN" has it, "SIGN alone" has none. Rows without
a number of the paper are ours."""


def plan(planner: StagePlanner) -> Plan:
    """Each row with each seed."""
    return classified(planner, entries(planner.options("table1", **DEFAULTS)["networks"]))


def summarize(planner: StagePlanner, found: Found) -> Experiment:
    """The table, with comparisons of the mean."""
    networks = planner.options("table1", **DEFAULTS)["networks"]
    outcomes = next(iter(found.values()))
    classes = list(outcomes[0].numbers["per_class"])
    columns = (*(Column(name, name) for name in classes), Column("mean", "Mean"))
    rows = {
        entry: row(planner, entry, found, _cells(entry, found, classes))
        for entry in entries(networks)
    }
    images = outcomes[0].numbers["images"]
    table = Table(
        title="Table 1",
        caption=f"Accuracy by class and overall, on {images:,} test images.",
        columns=columns,
        rows=tuple(rows.values()),
        images=images,
        comparisons=comparisons(rows, columns[-1:], images),
    )
    return Experiment(
        name="table1",
        title="Table 1: accuracy on CIFAR-10",
        about=ABOUT,
        stand_ins=stand_ins(planner, networks),
        settings=settings(planner, networks, found),
        tables=(table,),
        findings=findings(table),
    )


def _cells(entry: Entry, found: Found, classes: list[str]) -> dict[str, Any]:
    outcomes = found[entry.name]
    theirs: dict[str, float] = {}
    if entry.protocol == "epochs":
        theirs = (published.for_network(published.TABLE1, entry.network) or {}).get(
            entry.method, {}
        )
    cells = {name: cell(outcomes, "per_class", name, paper=theirs.get(name)) for name in classes}
    return {**cells, "mean": cell(outcomes, "accuracy", paper=theirs.get("mean"))}


RECIPE = Recipe("table1", plan, summarize)
