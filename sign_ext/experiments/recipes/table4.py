"""Table 4: SIGN's images of one network train another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.recipes import published
from sign_ext.experiments.recipes.methods import METHODS
from sign_ext.experiments.recipes.recipe import Found, Plan, Recipe, cell
from sign_ext.experiments.recipes.rows import Entry, comparisons, entries, row
from sign_ext.experiments.recipes.summary import findings, settings, stand_ins
from sign_ext.experiments.stages.networks import Train
from sign_ext.report.schema import Column, Experiment, Row, Table

DEFAULTS: dict[str, Any] = {"network": "nasnet_mobile", "phi": "mobilenet_v2"}
SHOWN = ("classical", "sign")

ABOUT = """\
Φ is {phi}, trained classically; its transformed images join the originals to train {network},
with classical augmentation, beside {network} trained on the originals alone."""


def plan(planner: StagePlanner) -> Plan:
    """Both rows by both protocols with each seed."""
    options = planner.options("table4", **DEFAULTS)
    network = options["network"]
    return {
        entry.name: tuple(
            planner.classify(_train(planner, entry, options["phi"], seed), network)
            for seed in planner.seeds
        )
        for entry in entries({network: SHOWN})
    }


def _train(planner: StagePlanner, entry: Entry, phi: str, seed: int) -> Train:
    sign = planner.transform(planner.phi(phi, seed)) if METHODS[entry.method].sign else None
    return planner.train(entry.network, entry.method, seed, protocol=entry.protocol, sign=sign)


def summarize(planner: StagePlanner, found: Found) -> Experiment:
    """The table, with comparisons of the mean."""
    options = planner.options("table4", **DEFAULTS)
    network, phi = planner.network(options["network"]), planner.network(options["phi"])
    numbers = next(iter(found.values()))[0].numbers
    classes, images = list(numbers["per_class"]), numbers["images"]
    columns = (*(Column(name, name) for name in classes), Column("mean", "Mean"))
    rows = {
        entry: _row(planner, entry, found, classes)
        for entry in entries({options["network"]: SHOWN})
    }
    table = Table(
        title="Table 4",
        caption=f"Accuracy by class and overall, on {images:,} test images.",
        columns=columns,
        rows=tuple(rows.values()),
        images=images,
        comparisons=comparisons(rows, columns[-1:], images),
    )
    networks = [options["network"], options["phi"]]
    return Experiment(
        name="table4",
        title="Table 4: transfer of SIGN's images to another network",
        about=ABOUT.format(phi=phi.label, network=network.label),
        stand_ins=stand_ins(planner, networks),
        settings=settings(planner, networks, found),
        tables=(table,),
        findings=findings(table),
    )


def _row(planner: StagePlanner, entry: Entry, found: Found, classes: Sequence[str]) -> Row:
    outcomes = found[entry.name]
    theirs = published.TABLE4[entry.method] if entry.protocol == "epochs" else {}
    cells = {name: cell(outcomes, "per_class", name, paper=theirs.get(name)) for name in classes}
    cells["mean"] = cell(outcomes, "accuracy", paper=theirs.get("mean"))
    told = row(planner, entry, found, cells)
    if not METHODS[entry.method].sign:
        return told
    return replace(told, label="Transfer (with SIGN)", note="")


RECIPE = Recipe("table4", plan, summarize)
