"""Does Φ predict p* better? Its accuracy, confidence and true-class probability along the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sign_ext.evaluation import Samples, crossed, image_covariance
from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.recipes.recipe import (
    OutcomesByName,
    Recipe,
    StagesByName,
    artefacts,
    doubts,
)
from sign_ext.experiments.recipes.summary import settings_used, stand_ins
from sign_ext.experiments.recipes.versions import compare, k_label, settled, version_cell
from sign_ext.experiments.stages.measure import read_answers
from sign_ext.experiments.stages.stage import Outcome
from sign_ext.experiments.stages.versions import NOISE, ORIGINAL, FollowPath, answer_name
from sign_ext.report.schema import Column, Experiment, Figure, Row, Table

DEFAULTS: dict[str, Any] = {"networks": ["mobilenet_v2", "basic_cnn"], "points": 20}
TITLE = "Φ’s answers to p*"
NOISE_LABEL = "p + noise as large"
QUESTION = "Does Φ predict p* better?"
MEASURES = {
    "accuracy": "Accuracy",
    "confidence": "Confidence",
    "probability": "Probability of the true class",
}

ABOUT = """\
The paper says of the images that it makes that they "lead to improved predictions" (Section 1),
and that no true label is needed. So Φ itself is asked: its accuracy, its mean confidence (largest
probability) and the mean probability of the true class, of p*_k on test images, for k from 0 to
the largest K, with the step size that the other experiments use. Noise as large as δ of the last k
shows what any change of that size would do."""


def plan(planner: StagePlanner) -> StagesByName:
    """The way of each Φ's own SIGN, with each seed."""
    options = planner.options("phi_answers", **DEFAULTS)
    stages: StagesByName = {}
    for network in options["networks"]:
        images = planner.image_count(planner.task(network), "test")
        phis = [planner.phi(network, seed) for seed in planner.seeds]
        stages[network] = tuple(
            FollowPath(phi, planner.choose_step(phi), looked_at(planner, options["points"]), images)
            for phi in phis
        )
    return stages


def looked_at(planner: StagePlanner, points: int) -> tuple[int, ...]:
    """So many k, evenly spaced up to the largest K, with all K of the scale among them."""
    snapshots = planner.scale.sign.snapshots
    last = max(snapshots)
    even = {round(last * place / points) for place in range(1, points + 1)}
    return tuple(sorted((even | set(snapshots)) - {0}))


def summarize(planner: StagePlanner, outcomes: OutcomesByName) -> Experiment:
    """The numbers at each K with comparisons to p and to noise, and a curve for each measure."""
    networks = planner.options("phi_answers", **DEFAULTS)["networks"]
    table = answers_table(planner, outcomes, networks)
    return Experiment(
        name="phi_answers",
        title="Does Φ predict p* better? (Section 1)",
        about=ABOUT,
        stand_ins=stand_ins(planner, networks),
        settings={
            **changes(planner, outcomes, networks),
            **settings_used(planner, networks, {}),
        },
        tables=(table,),
        figures=tuple(
            figure(planner.network(network).label, outcomes[network]) for network in networks
        ),
        findings=findings_of(table),
    )


def answers_table(
    planner: StagePlanner, outcomes: OutcomesByName, networks: Sequence[str]
) -> Table:
    """The table, with comparisons of p* at each K with p, and of the last with noise.

    Args:
        planner: has the scale.
        outcomes: of a `FollowPath` a seed, by the network's name.
        networks: names in the scale.
    """
    snapshots = planner.scale.sign.snapshots
    margins = {"accuracy": planner.scale.margins.accuracy}
    columns = tuple(Column(key, label, margin=margins.get(key)) for key, label in MEASURES.items())
    versions = {k_label(k): str(k) for k in (0, *snapshots)} | {NOISE_LABEL: NOISE}
    rows = []
    for network in networks:
        of_network = outcomes[network]
        group = f"Φ = {planner.network(network).label}"
        for label, version in versions.items():
            cells = {key: version_cell(of_network, version, key) for key in MEASURES}
            rows.append(
                Row(
                    label,
                    group,
                    cells,
                    stages=artefacts(of_network),
                    doubts=doubts(planner, of_network),
                )
            )
    images = outcomes[networks[0]][0].numbers["images"]
    return Table(
        title=TITLE,
        caption=f"Φ’s own answers on {images:,} test images.",
        columns=columns,
        rows=tuple(rows),
        comparisons=compare(rows, pairs(snapshots), columns, images),
        images=images,
    )


def findings_of(table: Table) -> tuple[str, ...]:
    """The answer, from the comparisons of p* at each K with p."""
    return settled(
        table, QUESTION, [(c.method, c.baseline) for c in table.comparisons if c.baseline == "p"]
    )


def pairs(snapshots: Sequence[int]) -> list[tuple[str, str]]:
    """p* at each K against p, and at the largest against noise."""
    found = [(k_label(k), k_label(0)) for k in snapshots]
    return [*found, (k_label(max(snapshots)), NOISE_LABEL)]


def changes(
    planner: StagePlanner, outcomes: OutcomesByName, networks: Sequence[str]
) -> dict[str, Any]:
    """The step size and the change at the largest K of each seed, for an experiment's settings.

    Args:
        planner: has the scale and the seeds.
        outcomes: of a `FollowPath` a seed, by the network's name.
        networks: names in the scale.
    """
    last = str(max(planner.scale.sign.snapshots))
    used: dict[str, Any] = {}
    for network in networks:
        label = planner.network(network).label
        found = dict(zip(map(str, planner.seeds), outcomes[network], strict=True))
        used[f"step size with Φ = {label}"] = {s: o.numbers["step_size"] for s, o in found.items()}
        used[f"rms change at K = {last} with Φ = {label}, grey levels"] = {
            s: o.numbers["rms"][last] for s, o in found.items()
        }
    return used


def figure(label: str, outcomes: Sequence[Outcome]) -> Figure:
    """A curve of each measure over k.

    Args:
        label: of Φ.
        outcomes: of a `FollowPath` a seed.
    """
    return Figure(
        title=f"Φ = {label} along the way",
        caption="Difference to p, as a mean over seeds; bands are 95% intervals, paired by image, "
        "where there are several seeds.",
        alt="Accuracy, confidence and true-class probability of p* less those of p, over k; the "
        "numbers at each K are in the table.",
        kind="lines",
        data={
            "x": "k",
            "y": "difference to p, points",
            "log_x": False,
            "percent": False,
            "lines": [_line(outcomes, key, name) for key, name in MEASURES.items()],
        },
    )


def _line(outcomes: Sequence[Outcome], measure: str, label: str) -> dict[str, Any]:
    """The differences of p*_k and p in points, with intervals at each k."""
    ks = [0, *map(int, outcomes[0].numbers["rms"])]
    y, low, high = [0.0], [0.0], [0.0]
    for k in ks[1:]:
        sides = [_samples(outcomes, measure, version) for version in (str(k), ORIGINAL)]
        differences = [a.value() - b.value() for a, b in zip(*sides, strict=True)]
        found = crossed(differences, image_covariance(*sides))
        ends = found.interval() or (found.difference, found.difference)
        y.append(100 * found.difference)
        low.append(100 * ends[0])
        high.append(100 * ends[1])
    return {"label": label, "x": ks, "y": y, "low": low, "high": high}


def _samples(outcomes: Sequence[Outcome], measure: str, version: str) -> list[Samples]:
    found = []
    for outcome in outcomes:
        answers = read_answers(outcome)
        assert answers is not None
        values = answers.values[answer_name(measure, version)]
        found.append(Samples("mean", values.astype(np.float64)))
    return found


RECIPE = Recipe("phi_answers", plan, summarize)
