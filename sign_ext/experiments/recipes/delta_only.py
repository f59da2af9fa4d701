"""Section 3.1: is there a class in δ? Training and testing on δ = p*_K − p alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.recipes import published
from sign_ext.experiments.recipes.recipe import (
    OutcomesByName,
    Recipe,
    StagesByName,
    artefacts,
    cell,
    doubts,
)
from sign_ext.experiments.recipes.summary import mean_over_seeds, settings_used, stand_ins
from sign_ext.experiments.stages.measure import ClassifyDelta
from sign_ext.experiments.stages.networks import DELTA_RMS, Train, TrainOnDelta
from sign_ext.experiments.stages.stage import Outcome
from sign_ext.report.schema import Column, Experiment, Row, Table

DEFAULTS: dict[str, Any] = {"networks": ["mobilenet_v2"]}

ABOUT = f"""\
A fresh network is trained on δ = p*_K − p of the training images (the larger K) and tested on δ
of the test images, both from the same Φ, without augmentation and without ever seeing an image.
All δ are multiplied by one factor that brings their rms on the training set to {DELTA_RMS:g} grey
levels, because at their own few grey levels this would mostly test the optimiser. Φ knows the
training labels, so δ of a test image holds what Φ makes of it: compare with the accuracy of Φ
itself and with chance."""


def plan(planner: StagePlanner) -> StagesByName:
    """The network on δ, and Φ on the images, with each seed."""
    stages: StagesByName = {}
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
        settings=replace(phi.settings, seed=phi.seed),
        rate=phi.rate,
        # All snapshots, though δ needs the last alone: other tables use this stage too.
        sign=planner.transform(phi),
        validation=planner.transform(phi, part="validation", snapshots=last),
    )
    return ClassifyDelta(stage, planner.transform(phi, part="test", snapshots=last))


def summarize(planner: StagePlanner, outcomes: OutcomesByName) -> Experiment:
    """The accuracies from δ and from the images, and chance."""
    networks = planner.options("delta_only", **DEFAULTS)["networks"]
    rows, sentences = [], []
    for network in networks:
        label = planner.network(network).label
        delta, phi = outcomes[f"{network}/delta"], outcomes[f"{network}/phi"]
        paper = published.for_network(published.DELTA_ONLY, network)
        cells = {"accuracy": cell(delta, "accuracy", paper=paper)}
        rows.append(
            Row("δ alone", label, cells, stages=artefacts(delta), doubts=doubts(planner, delta))
        )
        cells = {"accuracy": cell(phi, "accuracy")}
        rows.append(
            Row("Φ on the images", label, cells, stages=artefacts(phi), doubts=doubts(planner, phi))
        )
        sentences.append(_finding(label, delta, phi, paper))
    images = outcomes[f"{networks[0]}/delta"][0].numbers["images"]
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
        settings=settings_used(planner, networks, outcomes),
        tables=(table,),
        findings=tuple(sentences),
    )


def _finding(
    label: str, delta: Sequence[Outcome], phi: Sequence[Outcome], paper: float | None
) -> str:
    chance = 1 / len(delta[0].numbers["per_class"])
    of_delta, of_phi = mean_over_seeds(delta, "accuracy"), mean_over_seeds(phi, "accuracy")
    of_paper = "" if paper is None else f" (the paper: {100 * paper:.1f}%)"
    return (
        f"{label}: {100 * of_delta:.1f}% from δ alone{of_paper}, "
        f"{100 * chance:.1f}% by chance; Φ itself has {100 * of_phi:.1f}% on the images."
    )


RECIPE = Recipe("delta_only", plan, summarize)
