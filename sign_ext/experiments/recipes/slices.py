"""Slices: one seed of a few methods, small enough for one core, to be joined seed by seed.

A slice trains its own Φ, so that pairs never cross slices. docs/results/PROTOCOL.md says what is
decided with them.
"""

from __future__ import annotations

from typing import Any

from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.recipes.arms import KEYS, arms, arms_table
from sign_ext.experiments.recipes.recipe import (
    OutcomesByName,
    Recipe,
    RowSpec,
    StagesByName,
    classify_rows,
    present,
    stages_of_rows,
)
from sign_ext.experiments.recipes.summary import findings, settings_used, stand_ins
from sign_ext.experiments.recipes.table2_table3 import uncertainty_tables
from sign_ext.experiments.stages.measure import MeasureUncertainty
from sign_ext.experiments.stages.stage import Stage
from sign_ext.report.schema import Experiment

DEFAULTS: dict[str, dict[str, Any]] = {
    "slice_a": {"network": "basic_cnn", "methods": ["classical", "mixup", "noise", "sign"]},
    "slice_b": {
        "network": "basic_cnn",
        "methods": [
            "none",
            "sign_alone",
            "shuffled_alone",
            "trivialaugment",
            "deepaugment",
            "deepaugment_sign",
        ],
    },
    "slice_c": {"network": "mobilenet_v2_stride8", "methods": ["classical", "mixup", "sign"]},
}
TITLES = {
    "slice_a": "Slice A: SIGN against noise, mixup and classical augmentation",
    "slice_b": "Slice B: SIGN alone, and on top of learned augmentation",
    "slice_c": "Slice C: networks with an uncertainty head",
}
ABOUT = """\
One seed a slice: its own training images, its own Φ from other initial weights, and all test
images. All methods take as many gradient steps. docs/results/PROTOCOL.md, written before the first
number on test images, says which comparisons count and how many seeds follow."""
ABOUT_C = """\
The networks have the two heads of Section 3.2 and give all measures: those of Tables 2 and 3, and
accuracy on clean and corrupted test images (Tables 1 and 5), there by the head for logits alone."""


def _plan(name: str, planner: StagePlanner) -> StagesByName:
    options = planner.options(name, **DEFAULTS[name])
    return classify_rows(planner, arms(options["network"], options["methods"]))


def _summarize(name: str, planner: StagePlanner, outcomes: OutcomesByName) -> Experiment:
    """A table of accuracies, which has the primary comparison where the scale is made for it."""
    options = planner.options(name, **DEFAULTS[name])
    specs = present(arms(options["network"], options["methods"]), outcomes)
    families = name in planner.scale.only
    primary = (planner.scale.primary, "normal") if families and name == "slice_a" else None
    table = arms_table(
        planner,
        specs,
        outcomes,
        TITLES[name].partition(":")[0],
        secondary=tuple(KEYS) if families else (),
        primary=primary,
    )
    networks = [options["network"]]
    return Experiment(
        name=name,
        title=TITLES[name],
        about=ABOUT,
        stand_ins=stand_ins(planner, networks),
        settings=settings_used(planner, networks, outcomes),
        tables=(table,),
        findings=findings(table),
    )


def _plan_c(planner: StagePlanner) -> StagesByName:
    """Each network classifies, and says how uncertain it is of test images and of others."""
    options = planner.options("slice_c", **DEFAULTS["slice_c"])
    specs, ood = arms(options["network"], options["methods"]), planner.ood()

    def trained(spec: RowSpec, seed: int) -> Any:
        return planner.train(
            spec.network, spec.method, seed, protocol=spec.protocol, aleatoric=True
        )

    def classify(spec: RowSpec, seed: int) -> Stage:
        return planner.classify(trained(spec, seed), spec.network)

    def uncertain(spec: RowSpec, seed: int) -> Stage:
        return MeasureUncertainty(trained(spec, seed), planner.scale.samples)

    def elsewhere(spec: RowSpec, seed: int) -> Stage:
        return MeasureUncertainty(trained(spec, seed), planner.scale.samples, ood)

    return {
        f"{measure}/{name}": stages
        for measure, make in (("1", classify), ("2", uncertain), ("3", elsewhere))
        for name, stages in stages_of_rows(planner, specs, make).items()
    }


def _summarize_c(planner: StagePlanner, outcomes: OutcomesByName) -> Experiment:
    """The paper's tables of these networks."""
    options = planner.options("slice_c", **DEFAULTS["slice_c"])
    network = options["network"]

    def of(measure: str) -> dict[str, Any]:
        start = f"{measure}/"
        return {k.removeprefix(start): v for k, v in outcomes.items() if k.startswith(start)}

    specs = present(arms(network, options["methods"]), of("1"))
    families = "slice_c" in planner.scale.only
    tables = [
        arms_table(planner, specs, of("1"), "Slice C", secondary=tuple(KEYS) if families else ())
    ]
    for measure, where in (("2", "test images"), ("3", "out of distribution")):
        tables += uncertainty_tables(
            planner, specs, of(measure), f"Slice C, {where}", {}, families=families
        )
    return Experiment(
        name="slice_c",
        title=TITLES["slice_c"],
        about=f"{ABOUT} {ABOUT_C}",
        stand_ins=stand_ins(planner, [network], ood=True),
        settings=settings_used(planner, [network], outcomes),
        tables=tuple(tables),
        findings=tuple(each for table in tables if table.comparisons for each in findings(table)),
    )


SLICE_A = Recipe(
    "slice_a",
    lambda planner: _plan("slice_a", planner),
    lambda planner, outcomes: _summarize("slice_a", planner, outcomes),
    by_rows=True,
)
SLICE_B = Recipe(
    "slice_b",
    lambda planner: _plan("slice_b", planner),
    lambda planner, outcomes: _summarize("slice_b", planner, outcomes),
    by_rows=True,
)
SLICE_C = Recipe("slice_c", _plan_c, _summarize_c, by_rows=True)
