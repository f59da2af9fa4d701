"""Figures 3 and 4: images before and after SIGN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.recipes.recipe import (
    OutcomesByName,
    Recipe,
    StagesByName,
    artefacts,
    cell,
)
from sign_ext.experiments.recipes.summary import settings_used, stand_ins
from sign_ext.experiments.stages.measure import Pictures
from sign_ext.experiments.stages.networks import ChooseStep
from sign_ext.experiments.stages.stage import Outcome
from sign_ext.report.schema import Column, Experiment, Figure, Row, Table

COLUMNS = (Column("contrast", "Contrast", "number"), Column("edges", "Edges", "number"))

ABOUT = """\
The first images of each class, p above and p*_K below, and δ of the larger K around grey. Values
outside 0–255 are clipped in the picture only. The paper sees "color contrasts and the boundaries of
the objects enhanced": the table measures both on all training images. Contrast is the
standard deviation within an image, edges the mean length of its gradient, both of the mean over
channels, in grey levels."""


def recipe(name: str, title: str, network: str, each: int) -> Recipe:
    """A figure of a network's own SIGN images.

    Args:
        name: of the experiment.
        title: the paper's.
        network: whose Φ transforms its training images.
        each: images of each class.
    """
    defaults: dict[str, Any] = {"network": network, "each": each}

    def plan(planner: StagePlanner) -> StagesByName:
        options = planner.options(name, **defaults)
        return {
            "pictures": tuple(
                Pictures(planner.transform(planner.phi(options["network"], seed)), options["each"])
                for seed in planner.seeds
            )
        }

    def summarize(planner: StagePlanner, outcomes: OutcomesByName) -> Experiment:
        network = planner.options(name, **defaults)["network"]
        pictures = outcomes["pictures"]
        label = planner.network(network).label
        table = _table(title, pictures, label)
        first = pictures[0].numbers
        figure = Figure(
            title=title,
            caption=f"Before and after SIGN with Φ = {label}, first seed; δ is drawn ±"
            f"{first['delta_scale']:.0f} grey levels around grey.",
            alt="Rows of images: before, after each K, and their difference.",
            kind="samples",
            data={"columns": first["columns"], "rows": first["rows"]},
        )
        return Experiment(
            name=name,
            title=f"{title}: images before and after SIGN",
            about=ABOUT,
            stand_ins=stand_ins(planner, [network]),
            settings=settings_used(planner, [network], outcomes),
            tables=(table,),
            figures=(figure,),
            findings=(_finding(table), *_doubts(planner, pictures)),
        )

    return Recipe(name, plan, summarize)


def _table(title: str, pictures: Sequence[Outcome], label: str) -> Table:
    steps = sorted(pictures[0].numbers["after"], key=int)
    rows = [_row("before", pictures, ("before",), label)]
    rows += [_row(f"after K = {k}", pictures, ("after", k), label) for k in steps]
    return Table(f"{title} in numbers", "Means over training images.", COLUMNS, tuple(rows))


def _row(name: str, pictures: Sequence[Outcome], path: tuple[str, ...], label: str) -> Row:
    cells = {column.key: cell(pictures, *path, column.key) for column in COLUMNS}
    return Row(name, f"Φ = {label}", cells, stages=artefacts(pictures))


def _doubts(planner: StagePlanner, pictures: Sequence[Outcome]) -> tuple[str, ...]:
    """Which Φ have not shown that they learnt anything: their δ means nothing."""
    sentences = []
    for seed, outcome in zip(planner.seeds, pictures, strict=True):
        assert isinstance(outcome.stage, Pictures)
        step = outcome.stage.transform.step
        calibrated = step.calibrations[0] if isinstance(step, ChooseStep) else step
        if calibrated is None:
            continue
        doubt = planner.numbers(calibrated).get("doubt_of_learning", "")
        if doubt:
            sentences.append(f"Φ of seed {seed} has not learnt, so its δ means nothing: {doubt}.")
    return tuple(sentences)


def _finding(table: Table) -> str:
    before, after = table.rows[0], table.rows[-1]
    parts = []
    for column in table.columns:
        pairs = zip(before.cells[column.key].values, after.cells[column.key].values, strict=True)
        ratios = [b / a for a, b in pairs if a and b is not None]
        parts.append(f"{column.label.lower()} × {sum(ratios) / len(ratios):.2f}")
    return f"{after.label}: {', '.join(parts)}, as a mean over images."


FIGURE3 = recipe("figure3", "Figure 3", "mobilenet_v2", 1)
FIGURE4 = recipe("figure4", "Figure 4", "inception_resnet_v2", 4)
