"""Tables 2 and 3: uncertainty of aleatoric networks, on CIFAR-10 and out of distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sign_ext.experiments.planner import METHODS, PROTOCOLS, Protocol, StagePlanner
from sign_ext.experiments.recipes import published
from sign_ext.experiments.recipes.recipe import (
    OutcomesByName,
    Recipe,
    RowSpec,
    StagesByName,
    cell,
    compare_pairs,
    paper_numbers,
    present,
    row_specs,
    samples_of,
    shown,
    stages_of_rows,
    table_row,
)
from sign_ext.experiments.recipes.summary import findings, settings_used, stand_ins
from sign_ext.experiments.stages.measure import MeasureUncertainty
from sign_ext.experiments.stages.stage import Outcome, Stage
from sign_ext.report.schema import Cell, Column, Experiment, Figure, Kind, Row, Table

DEFAULTS: dict[str, Any] = {"network": "mobilenet_v2"}
METHODS_SHOWN = ("classical", "mixup", "sign")

# method → quantity (a key of QUANTITIES) → class or "mean" → the paper's number.
Published = Mapping[str, Mapping[str, Mapping[str, float]]]

# Each quantity of the paper's table is a table here, because a column has one unit:
# its key → title, caption, kind.
QUANTITIES: dict[str, tuple[str, str, Kind]] = {
    "accuracy": ("overall accuracy", "Accuracy by class and over all images.", "share"),
    "low": (
        "p ≤ 0.5",
        "Mean probability of the correct class over correctly classified images whose correct "
        "class has at most 0.5.",
        "share",
    ),
    "count": ("# images with p ≤ 0.5", "How many such images there are.", "count"),
    "uncertainty": (
        "[uncertainty] of these",
        "Mean σ over classes of these images. The paper does not define its uncertainty; this is "
        "the learned σ of Eq. 11.",
        "number",
    ),
}

# Quantity → which of the answers to each image its last column is the mean of, by which methods are
# compared.
COMPARED = {"accuracy": "correct", "count": "low", "uncertainty": "low_sigma"}

# Scores that the paper does not have: column → path in the numbers, heading, kind.
SCORES: dict[str, tuple[tuple[str, ...], str, Kind]] = {
    "threshold": (("low", "smallest"), "lowest p of a right answer", "share"),
    "sigma": (("sigma",), "mean σ, all images", "number"),
    "entropy": (("scores", "entropy"), "entropy, nats", "number"),
    "nll": (("scores", "negative_log_likelihood"), "negative log likelihood", "number"),
    "ece": (("scores", "calibration_error"), "calibration error", "share"),
}

TABLE2_ABOUT = """\
A network with two heads, for logits f and their σ, is trained by Eq. 10–11 with T = {samples}
samples (Section 3.2). SIGN's images come from a Φ of the same architecture with the usual head,
trained classically. Probabilities are means of softmax over T samples. "p ≤ 0.5" are right
answers given with at most that probability: a method with few of them is confident where it is
right, which by itself is neither good nor bad; the calibration error says whether the confidence
is deserved."""
TABLE3_ABOUT = """\
The networks of Table 2 on images of another data set: those of Tiny ImageNet whose classes
CIFAR-10 has, resized from 64×64 to 32×32 by area. The paper gives counts by class and no synsets;
the validation images without greyscale ones of sports car, of goose, black stork and albatross,
of tabby, of all six dogs and both frogs give its counts exactly, so these are taken. A prediction
may be any of the ten classes. The mean is over images, as the paper's is."""


def plan_table2(planner: StagePlanner) -> StagesByName:
    """Each method on the test images."""
    return _plan(planner, planner.options("table2", **DEFAULTS)["network"], None)


def summarize_table2(planner: StagePlanner, outcomes: OutcomesByName) -> Experiment:
    """The paper's quantities, scores of calibration, and reliability diagrams."""
    network = planner.options("table2", **DEFAULTS)["network"]
    specs = present(_specs(planner, network), outcomes)
    tables = uncertainty_tables(planner, specs, outcomes, "Table 2", published.TABLE2)
    thresholds = {m: {"threshold": value} for m, value in published.THRESHOLDS.items()}
    scores = _scores(planner, specs, outcomes, "Table 2", thresholds)
    return Experiment(
        name="table2",
        title="Table 2: aleatoric uncertainty on CIFAR-10",
        about=TABLE2_ABOUT.format(samples=planner.scale.samples),
        stand_ins=stand_ins(planner, [network]),
        settings=settings_used(planner, [network], outcomes),
        tables=(*tables, scores),
        figures=tuple(
            _reliability(network, outcomes, each)
            for each in shown(planner)
            if present(row_specs({network: METHODS_SHOWN}, [each]), outcomes)
        ),
        findings=findings(tables[0]),
    )


def plan_table3(planner: StagePlanner) -> StagesByName:
    """Each method on the images of another data set."""
    network = planner.options("table3", **DEFAULTS)["network"]
    return _plan(planner, network, planner.ood())


def summarize_table3(planner: StagePlanner, outcomes: OutcomesByName) -> Experiment:
    """The paper's quantities, and scores of calibration."""
    network = planner.options("table3", **DEFAULTS)["network"]
    specs = present(_specs(planner, network), outcomes)
    tables = uncertainty_tables(planner, specs, outcomes, "Table 3", published.TABLE3)
    scores = _scores(planner, specs, outcomes, "Table 3", {})
    counts = next(iter(outcomes.values()))[0].numbers["counts"]
    settings = {
        **settings_used(planner, [network], outcomes),
        "images": ", ".join(f"{count} {name}" for name, count in counts.items()),
    }
    return Experiment(
        name="table3",
        title="Table 3: out of distribution, Tiny ImageNet",
        about=TABLE3_ABOUT,
        stand_ins=stand_ins(planner, [network], ood=True),
        settings=settings,
        tables=(*tables, scores),
        findings=findings(tables[0]),
    )


def _plan(planner: StagePlanner, network: str, ood: dict[str, Any] | None) -> StagesByName:
    """The aleatoric network by each method and protocol, measured on test or other images."""

    def measure(spec: RowSpec, seed: int) -> Stage:
        trained = planner.train(network, spec.method, seed, protocol=spec.protocol, aleatoric=True)
        return MeasureUncertainty(trained, planner.scale.samples, ood)

    return stages_of_rows(planner, _specs(planner, network), measure)


def _specs(planner: StagePlanner, network: str) -> list[RowSpec]:
    """The rows of either table."""
    return row_specs({network: METHODS_SHOWN}, planner.protocols)


def uncertainty_tables(
    planner: StagePlanner,
    specs: Sequence[RowSpec],
    outcomes: OutcomesByName,
    title: str,
    published_table: Published,
    *,
    families: bool = True,
) -> tuple[Table, ...]:
    """A table for each of the paper's quantities.

    Methods are compared by accuracy, by the share of right answers given with p ≤ 0.5, and by the
    uncertainty of these; less counts as better in both, as the paper has it.

    Args:
        planner: has the scale.
        specs: the rows, one or more.
        outcomes: of `MeasureUncertainty` stages, by the rows' names.
        title: "Table 2", for example.
        published_table: what the paper has.
        families: whether the comparisons belong to the secondary family.
    """
    numbers = outcomes[specs[0].name][0].numbers
    classes, images = list(numbers["per_class"]), numbers["images"]
    tables = []
    for quantity, (name, caption, kind) in QUANTITIES.items():
        rows: dict[RowSpec, Row] = {}
        for spec in specs:
            paper = paper_numbers(published_table, spec).get(quantity, {})
            kept = COMPARED.get(quantity, "") if quantity in _compared(planner) else ""
            cells = _cells(outcomes[spec.name], quantity, classes, paper, kept)
            rows[spec] = table_row(planner, spec, outcomes[spec.name], cells)
        columns = [Column(c, c, kind) for c in classes]
        columns += _last_columns(planner, quantity, kind)
        compared = columns[-1:] if quantity in _compared(planner) else []
        tables.append(
            Table(
                title=f"{title}: {name}",
                caption=caption,
                columns=tuple(columns),
                rows=tuple(rows.values()),
                comparisons=compare_pairs(
                    rows,
                    compared,
                    images if quantity == "accuracy" else None,
                    secondary=[each.key for each in compared] if families else (),
                ),
                images=images if quantity == "accuracy" else None,
            )
        )
    return tuple(tables)


def _last_columns(planner: StagePlanner, quantity: str, kind: Kind) -> tuple[Column, ...]:
    """The columns after those of the classes; methods are compared in the last one."""
    margins = planner.scale.margins
    if quantity == "accuracy":
        return (Column("mean", "Mean", kind, margin=margins.accuracy),)
    if quantity not in _compared(planner):
        return (Column("mean", "All" if quantity == "count" else "Mean", kind),)
    if quantity == "count":
        share = Column("share", "of right answers", "share", False, margin=margins.low)
        return (Column("mean", "All", kind), share)
    return (Column("mean", "Mean", kind, higher_is_better=False),)


def _compared(planner: StagePlanner) -> tuple[str, ...]:
    """The quantities by which methods are compared."""
    return tuple(COMPARED) if planner.scale.protocol > 1 else ("accuracy",)


def _cells(
    outcomes: Sequence[Outcome],
    quantity: str,
    classes: Sequence[str],
    paper: Mapping[str, float],
    kept: str,
) -> dict[str, Cell]:
    paths: dict[str, tuple[str, ...]]
    if quantity == "accuracy":
        paths = {name: ("per_class", name) for name in classes} | {"mean": ("accuracy",)}
    else:
        measure = "probability" if quantity == "low" else quantity
        paths = {name: ("low", "per_class", name, measure) for name in classes}
        paths["mean"] = ("low", "total", measure)
    cells = {name: cell(outcomes, *path, paper=paper.get(name)) for name, path in paths.items()}
    if kept and quantity == "count":
        values = tuple(_share_low(outcome.numbers) for outcome in outcomes)
        cells["share"] = Cell(values, samples=samples_of(outcomes, kept))
    elif kept:
        cells["mean"] = replace(cells["mean"], samples=samples_of(outcomes, kept))
    return cells


def _share_low(numbers: Mapping[str, Any]) -> float | None:
    """The share of right answers whose true class has at most 0.5."""
    right = round(numbers["accuracy"] * numbers["images"])
    return numbers["low"]["total"]["count"] / right if right else None


def _scores(
    planner: StagePlanner,
    specs: Sequence[RowSpec],
    outcomes: OutcomesByName,
    title: str,
    published_scores: Mapping[str, Mapping[str, float]],
) -> Table:
    rows: dict[RowSpec, Row] = {}
    for spec in specs:
        paper = paper_numbers(published_scores, spec)
        cells = {
            key: cell(outcomes[spec.name], *path, paper=paper.get(key))
            for key, (path, _, _) in SCORES.items()
        }
        sigma = samples_of(outcomes[spec.name], "sigma")
        cells["sigma"] = replace(cells["sigma"], samples=sigma)
        rows[spec] = table_row(planner, spec, outcomes[spec.name], cells)
    columns = tuple(
        Column(key, label, kind, higher_is_better=planner.scale.protocol == 1 or key == "threshold")
        for key, (_, label, kind) in SCORES.items()
    )
    return Table(
        title=f"{title}: beside it",
        caption="Uncertainty over all images; lower is better for the last three.",
        columns=columns,
        rows=tuple(rows.values()),
        comparisons=compare_pairs(
            rows,
            [each for each in columns if each.key == "sigma" and not each.higher_is_better],
            None,
        ),
    )


def _reliability(network: str, outcomes: OutcomesByName, protocol: Protocol) -> Figure:
    """The reliability diagrams of the first seed, by one protocol."""
    panels = [
        {"title": METHODS[spec.method].label, **outcomes[spec.name][0].numbers["reliability"]}
        for spec in present(row_specs({network: METHODS_SHOWN}, [protocol]), outcomes)
    ]
    return Figure(
        title=f"Reliability, {PROTOCOLS[protocol]}",
        caption="Accuracy against confidence in 15 bins, first seed; on the diagonal "
        "a network is right as often as it says.",
        alt="Reliability diagrams of the three methods; the calibration errors are in the table.",
        kind="reliability",
        data={"panels": panels},
    )


TABLE2 = Recipe("table2", plan_table2, summarize_table2, by_rows=True)
TABLE3 = Recipe("table3", plan_table3, summarize_table3, by_rows=True)
