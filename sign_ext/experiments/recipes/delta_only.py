"""Section 3.1: is there a class in δ? Training and testing on δ = p*_K − p alone."""

from __future__ import annotations

from typing import Any

from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.recipes import published
from sign_ext.experiments.recipes.recipe import Found, Plan, Recipe, cell, keys
from sign_ext.experiments.recipes.summary import means, settings, stand_ins
from sign_ext.experiments.stages.measure import ClassifyDelta
from sign_ext.experiments.stages.networks import DELTA_RMS, Train, TrainOnDelta
from sign_ext.report.schema import Column, Experiment, Row, Table

DEFAULTS: dict[str, Any] = {"networks": ["mobilenet_v2"]}

ABOUT = f"""\
A fresh network is trained on δ = p*_K − p of the training images (the larger K) and tested on δ
of the test images, both from the same Φ, without augmentation and without ever seeing an image.
All δ are multiplied by one factor that brings their rms on the training set to {DELTA_RMS:g} grey
levels, since at their own few grey levels the test would be one of the optimiser. Φ knows the
training labels, so δ of a test image holds what Φ makes of it: compare with the accuracy of Φ
itself, beside it, and with chance."""


def plan(planner: StagePlanner) -> Plan:
    """The network on δ, and Φ on the images, with each seed."""
    stages: Plan = {}
    for network in planner.options("delta_only", **DEFAULTS)["networks"]:
        phis = [planner.phi(network, seed) for seed in planner.seeds]
        stages[f"{network}/delta"] = tuple(_delta(planner, network, phi) for phi in phis)
        stages[f"{network}/phi"] = tuple(planner.classify(phi, network) for phi in phis)
    return stages


def _delta(planner: StagePlanner, network: str, phi: Train) -> ClassifyDelta:
    last = (max(planner.scale.sign.snapshots),)
    stage = TrainOnDelta(
        source=phi.source,
        images=phi.images,
        network=phi.network,
        settings=phi.settings,
        # The versions that other tables use as well, so that they are made once.
        sign=planner.transform(phi),
        validation=planner.transform(phi, part="validation", snapshots=last),
    )
    return ClassifyDelta(stage, planner.transform(phi, part="test", snapshots=last))


def summarize(planner: StagePlanner, found: Found) -> Experiment:
    """The accuracies beside chance."""
    networks = planner.options("delta_only", **DEFAULTS)["networks"]
    rows, told = [], []
    for network in networks:
        label = planner.network(network).label
        delta, phi = found[f"{network}/delta"], found[f"{network}/phi"]
        theirs = published.for_network(published.DELTA_ONLY, network)
        cells = {"accuracy": cell(delta, "accuracy", paper=theirs)}
        rows.append(Row("δ alone", label, cells, stages=keys(delta)))
        seen = {"accuracy": cell(phi, "accuracy")}
        rows.append(Row("Φ on the images", label, seen, stages=keys(phi)))
        chance = 1 / len(delta[0].numbers["per_class"])
        ours, theirs = means(delta, "accuracy"), means(phi, "accuracy")
        beside = f" (the paper: {100 * theirs:.1f}%)" if theirs else ""
        told.append(
            f"{label}: {100 * ours:.1f}% from δ alone{beside}, "
            f"{100 * chance:.1f}% by chance; Φ itself has {100 * theirs:.1f}% on the images."
        )
    images = found[f"{networks[0]}/delta"][0].numbers["images"]
    table = Table(
        title="δ alone (Section 3.1)",
        caption=f"Accuracy on {images:,} test images.",
        columns=(Column("accuracy", "Accuracy"),),
        rows=tuple(rows),
    )
    return Experiment(
        name="delta_only",
        title="Training on δ alone (Section 3.1)",
        about=ABOUT,
        stand_ins=stand_ins(planner, networks),
        settings=settings(planner, networks, found),
        tables=(table,),
        findings=tuple(told),
    )


RECIPE = Recipe("delta_only", plan, summarize)
