"""Does SIGN make networks use fewer inputs? Zero pre-activations and the gradient's mass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sign_ext.experiments.planner import METHODS, StagePlanner
from sign_ext.experiments.recipes.recipe import (
    OutcomesByName,
    Recipe,
    RowSpec,
    StagesByName,
    row_specs,
    stages_of_rows,
    table_row,
)
from sign_ext.experiments.recipes.summary import settings_used, stand_ins
from sign_ext.experiments.recipes.versions import compare, k_label, settled, version_cell
from sign_ext.experiments.stages.stage import Outcome, Stage
from sign_ext.experiments.stages.versions import MeasureInputs
from sign_ext.report.schema import Column, Experiment, Row, Table

DEFAULTS: dict[str, Any] = {
    "networks": {
        "mobilenet_v2": ["classical", "noise", "sign"],
        "basic_cnn": ["classical", "noise", "sign"],
    },
    "images": 2000,
}
TITLE = "Inputs used"
QUESTION = "Are fewer inputs used?"

ABOUT = """\
The paper says that variables which SIGN makes negative are "discarded by a model with ReLU
non-linearity. Thus the model focuses on fewer input variables" (Section 1), and explains its
robustness by that (Section 3.3). A negative variable is not itself discarded: the first layer
multiplies it by weights of both signs. So the sentence is tested where it can be seen: the share of
pre-activations that ReLUs set to 0, at the first ReLU and at all, and the effective number of
inputs, 1/Σm² with m the shares of the absolute gradient of the predicted class’s logit. Networks
trained with and without SIGN are compared on p, and each network on p* with itself on p; p* are
test images of the seed’s Φ. "Better" means fewer: more zeros, fewer effective inputs."""

# No direction in "Below 0": it says of the images, not of networks, how far SIGN's premise goes.
BELOW = Column("negative", "Variables below 0")
COLUMNS = (
    Column("first", "Zeros at the first ReLU"),
    Column("every", "Zeros at all ReLUs"),
    Column("effective", "Effective inputs", "number", higher_is_better=False),
)


def plan(planner: StagePlanner) -> StagesByName:
    """Each network by each protocol, on test images and their p*."""
    options = planner.options("inputs_used", **DEFAULTS)

    def measure(spec: RowSpec, seed: int) -> Stage:
        trained = planner.train(spec.network, spec.method, seed, protocol=spec.protocol)
        versions = planner.transform(planner.phi(spec.network, seed), part="test")
        return MeasureInputs(trained, versions, options["images"])

    return stages_of_rows(planner, row_specs(options["networks"], planner.protocols), measure)


def summarize(planner: StagePlanner, outcomes: OutcomesByName) -> Experiment:
    """The table, with comparisons between networks and between p* and p."""
    networks = planner.options("inputs_used", **DEFAULTS)["networks"]
    table = inputs_table(planner, outcomes, row_specs(networks, planner.protocols))
    return Experiment(
        name="inputs_used",
        title="Are fewer inputs used? (Sections 1 and 3.3)",
        about=ABOUT,
        stand_ins=stand_ins(planner, networks),
        settings=settings_used(planner, networks, outcomes),
        tables=(table,),
        findings=findings_of(table),
    )


def inputs_table(
    planner: StagePlanner, outcomes: OutcomesByName, specs: Sequence[RowSpec]
) -> Table:
    """The table, with comparisons between networks and between p* and p.

    Args:
        planner: has the scale.
        outcomes: of a `MeasureInputs` a seed, by the rows' names.
        specs: the rows.
    """
    rows: list[Row] = []
    for spec in specs:
        rows += _rows(planner, spec, outcomes[spec.name])
    numbers = outcomes[specs[0].name][0].numbers
    return Table(
        title=TITLE,
        caption=f"Means over {numbers['images']:,} test images of {numbers['variables']:,} "
        "variables.",
        columns=(BELOW, *COLUMNS),
        rows=tuple(rows),
        comparisons=compare(rows, pairs(planner.scale.sign.snapshots), COLUMNS, numbers["images"]),
        images=numbers["images"],
    )


def _rows(planner: StagePlanner, spec: RowSpec, outcomes: Sequence[Outcome]) -> list[Row]:
    like = table_row(planner, spec, outcomes, {})
    found = []
    for version in outcomes[0].numbers["versions"]:
        cells = {
            column.key: version_cell(outcomes, version, column.key) for column in (BELOW, *COLUMNS)
        }
        label = k_label(version, METHODS[spec.method].label)
        found.append(replace(like, label=label, cells=cells))
    return found


def pairs(snapshots: Sequence[int]) -> list[tuple[str, str]]:
    """SIGN's network against the others on p, and each network on the last p* against p."""
    sign, classical, noise, mixup = (
        METHODS[name].label for name in ("sign", "classical", "noise", "mixup")
    )
    found = [(k_label(0, sign), k_label(0, other)) for other in (classical, noise, mixup)]
    last = max(snapshots)
    return found + [(k_label(last, name), k_label(0, name)) for name in (classical, sign)]


def findings_of(table: Table) -> tuple[str, ...]:
    """The answer, from SIGN's network against the others and from p* against p."""
    return settled(table, QUESTION, [(c.method, c.baseline) for c in table.comparisons])


RECIPE = Recipe("inputs_used", plan, summarize)
