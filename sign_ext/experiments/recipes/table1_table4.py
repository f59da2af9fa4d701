"""Tables 1 and 4: accuracy by class and overall on CIFAR-10."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sign_ext.experiments.planner import METHODS, Protocol, StagePlanner
from sign_ext.experiments.recipes import published
from sign_ext.experiments.recipes.recipe import (
    OutcomesByName,
    Recipe,
    RowSpec,
    StagesByName,
    cell,
    classify_rows,
    compare_pairs,
    paper_numbers,
    present,
    row_specs,
    stages_of_rows,
    table_row,
)
from sign_ext.experiments.recipes.summary import findings, settings_used, stand_ins
from sign_ext.experiments.stages.stage import Outcome, Stage
from sign_ext.report.schema import Cell, Column, Experiment, Row, Table

MOBILE = ("classical", "mixup", "noise", "sign", "sign_alone")
BASIC = (*MOBILE, "deepaugment", "deepaugment_sign")
TABLE1_DEFAULTS: dict[str, Any] = {
    "networks": {"mobilenet_v2": MOBILE, "mobilenet_v2_stride8": MOBILE, "basic_cnn": BASIC}
}
TABLE4_DEFAULTS: dict[str, Any] = {"network": "nasnet_mobile", "phi": "mobilenet_v2"}
TABLE4_METHODS = ("classical", "sign", "sign_own")

TABLE1_ABOUT = """\
Each network is trained from scratch by each method and measured on test images, at the epoch that
is best on validation images. SIGN's training set is the originals joined with p*_K for two K, so
in as many epochs it takes three times as many gradient steps. All methods with as many gradient
steps come first, then the paper's protocol (equal epochs), then all with as much computation, to
which Φ and its K steps count for SIGN. All are validated equally often. Each seed has its own
initial weights, its own Φ from others, and its own training images where these are a part of all.
The paper does not say whether SIGN's images also get classical augmentation: "SIGN" has it, "SIGN
alone" has none. "Noise" joins the originals with as many images that differ from them as much, by
Gaussian noise: what SIGN gains over it, more images and more change do not explain. Rows without a
number of the paper are ours."""
TABLE4_ABOUT = """\
Φ is {phi}, trained classically; its transformed images join the originals to train {network},
with classical augmentation, next to {network} trained on the originals alone, and (not in the
paper) on the images of a Φ of its own kind, moved as far."""


def plan_table1(planner: StagePlanner) -> StagesByName:
    """Each network by each method and protocol, with each seed."""
    networks = planner.options("table1", **TABLE1_DEFAULTS)["networks"]
    return classify_rows(planner, row_specs(networks, _protocols(planner)))


def summarize_table1(planner: StagePlanner, outcomes: OutcomesByName) -> Experiment:
    """The table, with comparisons of the mean."""
    networks = planner.options("table1", **TABLE1_DEFAULTS)["networks"]
    rows = {}
    for spec in present(row_specs(networks, _protocols(planner)), outcomes):
        paper = paper_numbers(published.for_network(published.TABLE1, spec.network), spec)
        rows[spec] = _row(planner, spec, outcomes[spec.name], paper)
    title = "Table 1: accuracy on CIFAR-10"
    return _experiment(planner, outcomes, "table1", title, TABLE1_ABOUT, networks, rows)


def _protocols(planner: StagePlanner) -> tuple[Protocol, ...]:
    """Those of Table 1."""
    return planner.protocols if planner.scale.protocol == 1 else (*planner.protocols, "compute")


def plan_table4(planner: StagePlanner) -> StagesByName:
    """The network on the originals, and joined with another network's SIGN images."""
    options = planner.options("table4", **TABLE4_DEFAULTS)

    def classify(spec: RowSpec, seed: int) -> Stage:
        sign = None
        if METHODS[spec.method].sign:
            sign = planner.transform(planner.phi(options["phi"], seed))
            if spec.method == "sign_own":
                sign = planner.matched(planner.phi(spec.network, seed), sign)
        trained = planner.train(spec.network, spec.method, seed, protocol=spec.protocol, sign=sign)
        return planner.classify(trained, spec.network)

    specs = row_specs({options["network"]: _table4_methods(planner)}, planner.protocols)
    return stages_of_rows(planner, specs, classify)


def _table4_methods(planner: StagePlanner) -> tuple[str, ...]:
    """The rows; by the first protocol those of the paper alone."""
    return TABLE4_METHODS if planner.scale.protocol > 1 else TABLE4_METHODS[:2]


def summarize_table4(planner: StagePlanner, outcomes: OutcomesByName) -> Experiment:
    """The table, with comparisons of the mean."""
    options = planner.options("table4", **TABLE4_DEFAULTS)
    networks = [options["network"], options["phi"]]
    rows = {}
    specs = row_specs({options["network"]: _table4_methods(planner)}, planner.protocols)
    for spec in present(specs, outcomes):
        row = _row(planner, spec, outcomes[spec.name], paper_numbers(published.TABLE4, spec))
        if spec.method == "sign":
            row = replace(row, label="Transfer (with SIGN)", note="")
        rows[spec] = row
    network, phi = (planner.network(name).label for name in networks)
    about = TABLE4_ABOUT.format(phi=phi, network=network)
    title = "Table 4: transfer of SIGN's images to another network"
    return _experiment(planner, outcomes, "table4", title, about, networks, rows)


def _row(
    planner: StagePlanner, spec: RowSpec, outcomes: Sequence[Outcome], paper: Mapping[str, float]
) -> Row:
    cells: dict[str, Cell] = {
        name: cell(outcomes, "per_class", name, paper=paper.get(name))
        for name in outcomes[0].numbers["per_class"]
    }
    cells["mean"] = cell(outcomes, "accuracy", paper=paper.get("mean"), samples="correct")
    return table_row(planner, spec, outcomes, cells)


def _experiment(
    planner: StagePlanner,
    outcomes: OutcomesByName,
    name: str,
    title: str,
    about: str,
    networks: Iterable[str],
    rows: Mapping[RowSpec, Row],
) -> Experiment:
    """Either table: accuracy by class and its mean, with comparisons of the mean."""
    networks = list(networks)
    numbers = next(iter(outcomes.values()))[0].numbers
    images = numbers["images"]
    mean = Column("mean", "Mean", margin=planner.scale.margins.accuracy)
    primary = (planner.scale.primary, "mean") if name == "table1" else None
    table = Table(
        title=title.partition(":")[0],
        caption=f"Accuracy by class and overall, on {images:,} test images.",
        columns=(*(Column(each, each) for each in numbers["per_class"]), mean),
        rows=tuple(rows.values()),
        images=images,
        comparisons=compare_pairs(rows, (mean,), images, secondary=("mean",), primary=primary),
    )
    return Experiment(
        name=name,
        title=title,
        about=about,
        stand_ins=stand_ins(planner, networks),
        settings=settings_used(planner, networks, outcomes),
        tables=(table,),
        findings=findings(table),
    )


TABLE1 = Recipe("table1", plan_table1, summarize_table1, by_rows=True)
TABLE4 = Recipe("table4", plan_table4, summarize_table4, by_rows=True)
