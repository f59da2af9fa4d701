"""Figure 6: what the corruptions of Table 5 look like."""

from __future__ import annotations

from typing import Any

from sign_ext.evaluation import corruption_examples
from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.recipes.recipe import Found, Plan, Recipe
from sign_ext.experiments.recipes.summary import stand_ins
from sign_ext.experiments.stages.measure import corrupted_rows
from sign_ext.report.schema import Experiment, Figure

DEFAULTS: dict[str, Any] = {"network": "mobilenet_v2", "count": 10}

ABOUT = """\
Test images as they are, with {pixels} random pixels turned off, and with Gaussian noise of
standard deviation {sigma:g} grey levels, clipped to 0–255 for showing."""


def plan(planner: StagePlanner) -> Plan:
    """Nothing is trained for it."""
    return {}


def summarize(planner: StagePlanner, found: Found) -> Experiment:
    """The picture."""
    options, scale = planner.options("figure6", **DEFAULTS), planner.scale
    test = planner.sources.read(planner.source(planner.task(options["network"]))).test
    labels = test.labels.tolist()
    first = [labels.index(label) for label in sorted(set(labels))][: options["count"]]
    some = test.subset(first)
    rows = corruption_examples(some.float(), seed=0, num_off=scale.pixels, sigma=scale.sigma)
    return Experiment(
        name="figure6",
        title="Figure 6: corrupted test images",
        about=ABOUT.format(pixels=scale.pixels, sigma=scale.sigma),
        stand_ins=stand_ins(planner, [options["network"]]),
        settings={"pixels off": scale.pixels, "noise σ, grey levels": scale.sigma},
        figures=(
            Figure(
                title="Figure 6",
                caption="Rows from top to bottom: normal, pixels off, Gaussian noise.",
                alt="A test image of each class, the same with black pixels, and with noise.",
                kind="samples",
                data=corrupted_rows(some, rows),
            ),
        ),
    )


RECIPE = Recipe("figure6", plan, summarize)
