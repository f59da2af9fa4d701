"""Figures 1 and 2, which the paper sketches: computed where a manifold can be seen."""

from __future__ import annotations

from typing import Any

from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.recipes.recipe import OutcomesByName, Recipe, StagesByName, artefacts
from sign_ext.experiments.recipes.summary import mean_over_seeds
from sign_ext.experiments.recipes.versions import compare, settled, version_cell
from sign_ext.experiments.stages.plane import CLASSES, HIDDEN, SPREAD, PlaneExample
from sign_ext.report.schema import Column, Experiment, Figure, Row, Table

DEFAULTS: dict[str, Any] = {"points": 150, "epochs": 400, "change": 0.15}
TITLE = "Figure 1 in numbers"
QUESTION = "Does mixup give more wrong labels than SIGN?"
MIXUP, SIGN, SIGN_FAR = "mixup", "SIGN", "SIGN, as far as mixup"
ROWS = {
    "p": "p",
    MIXUP: "mixup",
    SIGN: "sign",
    SIGN_FAR: "sign_far",
    "Noise as large as SIGN’s change": "noise",
}
COLUMNS = (
    Column("wrong", "Wrong labels", higher_is_better=False),
    Column("distance", "Distance to the own curve", "number", higher_is_better=False),
)
STAND_IN = (
    "two interlocking half circles in the plane, with a network of two hidden layers, stand for "
    "the manifolds that the paper sketches"
)

ABOUT1 = f"""\
The paper’s Figure 1 is a sketch: mixup "leads to wrong labels for the samples on the boundaries".
Here it is computed. Points lie near two half circles (radius 1, standard deviation {SPREAD:g});
a label is wrong if the point is nearer to the other class’s curve. mixup draws a partner and λ
uniformly for each point and has the label of the larger weight. SIGN moves points by a chosen
distance, and once more by as large an rms change as mixup’s, with the Φ of a network trained on
other points. It is an example, chosen because classes interlock as in the sketch: where they do
not, mixup has fewer wrong labels."""
ABOUT2 = f"""\
The paper’s Figure 2 is a sketch of the push-forward. Here it is computed for a network with two
hidden layers of {HIDDEN} units, trained on points of two interlocking half circles. Left, the
source N: the points, the network’s boundary (dashed), the field of δ = Σ_a ∂Φ^a/∂x, and the ways of
some points from p to p*. Right, the target M, the {HIDDEN} outputs of Φ in their two principal
directions: Φ(p), the ways from Φ(p) to Φ(p*), and arrows for Φ∗, which is linear at p, of as many
steps of δ. Where way and arrow part, the linear estimate of Section 2.1 no longer holds."""


def plan(planner: StagePlanner, name: str) -> StagesByName:
    """The example, with each seed."""
    options = planner.options(name, **DEFAULTS)
    return {
        "plane": tuple(
            PlaneExample(
                seed,
                options["points"],
                options["epochs"],
                tuple(planner.scale.sign.snapshots),
                options["change"],
            )
            for seed in planner.seeds
        )
    }


def _settings(planner: StagePlanner, outcomes: OutcomesByName) -> dict[str, Any]:
    found = dict(zip(map(str, planner.seeds), outcomes["plane"], strict=True))
    return {
        "K": ", ".join(map(str, planner.scale.sign.snapshots)),
        "step size": {seed: each.numbers["step_size"] for seed, each in found.items()},
        "rms change of SIGN": {seed: each.numbers["rms"] for seed, each in found.items()},
        "rms change of mixup": {seed: each.numbers["mixup_rms"] for seed, each in found.items()},
        "accuracy of the network": {seed: each.numbers["accuracy"] for seed, each in found.items()},
    }


def summarize_figure1(planner: StagePlanner, outcomes: OutcomesByName) -> Experiment:
    """The picture, and how many labels are wrong."""
    plane = outcomes["plane"]
    rows = tuple(
        Row(
            label,
            "",
            {each.key: version_cell(plane, version, each.key) for each in COLUMNS},
            stages=artefacts(plane),
        )
        for label, version in ROWS.items()
    )
    points = plane[0].numbers["points"]
    table = Table(
        title=TITLE,
        caption=f"{points:,} test points and what became of them.",
        columns=COLUMNS,
        rows=rows,
        comparisons=compare(rows, [(SIGN, MIXUP), (SIGN_FAR, MIXUP)], COLUMNS[:1], points),
        images=points,
    )
    figure = Figure(
        title="Figure 1",
        caption="First seed. Points have the colour of their label; rings are around wrong labels.",
        alt="Three panels of points around two half circles: moved by mixup, with many rings on "
        "the curves’ wrong sides, and by SIGN, with few or none.",
        kind="plane",
        data={"classes": list(CLASSES), "columns": 3, "panels": plane[0].numbers["figure1"]},
    )
    return Experiment(
        name="figure1",
        title="Figure 1: mixup’s labels where classes interlock",
        about=ABOUT1,
        stand_ins=(STAND_IN,),
        settings=_settings(planner, outcomes),
        tables=(table,),
        figures=(figure,),
        findings=findings_of(table),
    )


def findings_of(table: Table) -> tuple[str, ...]:
    """The answer, from SIGN against mixup."""
    return settled(table, QUESTION, [(SIGN, MIXUP), (SIGN_FAR, MIXUP)])


def summarize_figure2(planner: StagePlanner, outcomes: OutcomesByName) -> Experiment:
    """The picture."""
    plane = outcomes["plane"]
    figure = Figure(
        title="Figure 2",
        caption="First seed. The longest arrow on the left is as long as the grid is wide.",
        alt="Left, points of two half circles with arrows and short ways that lead away from the "
        "other class; right, Φ’s outputs, where the ways lead outwards.",
        kind="plane",
        data={"classes": list(CLASSES), "columns": 2, "panels": plane[0].numbers["figure2"]},
    )
    right = 100 * mean_over_seeds(plane, "accuracy")
    return Experiment(
        name="figure2",
        title="Figure 2: the push-forward, and p → p*",
        about=ABOUT2,
        stand_ins=(STAND_IN,),
        settings=_settings(planner, outcomes),
        figures=(figure,),
        findings=(
            f"The network is right about {right:.1f}% of the test points, and SIGN moves them by "
            f"{mean_over_seeds(plane, 'rms'):.2f} (rms of a coordinate; the radius is 1).",
        ),
    )


FIGURE1 = Recipe("figure1", lambda planner: plan(planner, "figure1"), summarize_figure1)
FIGURE2 = Recipe("figure2", lambda planner: plan(planner, "figure2"), summarize_figure2)
