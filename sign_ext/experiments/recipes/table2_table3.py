"""What Tables 2 and 3 have in common: accuracy and low-confidence rows of aleatoric networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.recipes import published
from sign_ext.experiments.recipes.recipe import Found, Plan, Recipe, cell
from sign_ext.experiments.recipes.rows import Entry, comparisons, entries, row
from sign_ext.experiments.recipes.summary import findings, settings, stand_ins
from sign_ext.experiments.stages.measure import Uncertain
from sign_ext.report.schema import Cell, Column, Experiment, Figure, Kind, Row, Table

DEFAULTS: dict[str, Any] = {"network": "mobilenet_v2"}
METHODS = ("classical", "mixup", "sign")
Paper = Mapping[str, Mapping[str, Mapping[str, float]]]

# Each of the paper's rows is a table here, as a column has one unit: name → title, caption, kind.
PARTS: dict[str, tuple[str, str, Kind]] = {
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

# Beside the paper's rows: where it is in the numbers, its heading and its unit.
SCORES: dict[str, tuple[tuple[str, ...], str, Kind]] = {
    "threshold": (("low", "smallest"), "lowest p of a right answer", "share"),
    "sigma": (("sigma",), "mean σ, all images", "number"),
    "entropy": (("scores", "entropy"), "entropy, nats", "number"),
    "nll": (("scores", "negative_log_likelihood"), "negative log likelihood", "number"),
    "ece": (("scores", "calibration_error"), "calibration error", "share"),
}


def stages(planner: StagePlanner, network: str, ood: dict[str, Any] | None) -> Plan:
    """The aleatoric network by each method and protocol, measured on test or other images."""
    return {
        entry.name: tuple(
            Uncertain(
                planner.train(network, entry.method, seed, protocol=entry.protocol, aleatoric=True),
                planner.scale.samples,
                ood,
            )
            for seed in planner.seeds
        )
        for entry in entries({network: METHODS})
    }


def tables(
    planner: StagePlanner,
    network: str,
    found: Found,
    title: str,
    theirs: Paper,
    thresholds: Mapping[str, float],
) -> tuple[Table, ...]:
    """The paper's rows as tables, and one of the scores beside them."""
    numbers = found[Entry(network, METHODS[0], "epochs").name][0].numbers
    classes, images = list(numbers["per_class"]), numbers["images"]
    made = []
    for part, (name, caption, kind) in PARTS.items():
        columns = (*(Column(c, c, kind) for c in classes), Column("mean", "Mean", kind))
        if part == "count":
            columns = (*columns[:-1], Column("mean", "All", kind))
        rows = {
            entry: row(planner, entry, found, _cells(entry, found, part, classes, theirs))
            for entry in entries({network: METHODS})
        }
        judged = columns[-1:] if part == "accuracy" else ()
        told = comparisons(rows, judged, images)
        made.append(Table(f"{title}: {name}", caption, columns, tuple(rows.values()), told, images))
    made.append(_scores(planner, network, found, title, thresholds))
    return tuple(made)


def _cells(
    entry: Entry, found: Found, part: str, classes: Sequence[str], theirs: Paper
) -> dict[str, Cell]:
    outcomes = found[entry.name]
    there = theirs.get(entry.method, {}) if entry.protocol == "epochs" else {}
    paper = there.get(part, {})
    every = [*classes, "mean"]
    paths: dict[str, tuple[str, ...]]
    if part == "accuracy":
        paths = {name: ("per_class", name) for name in classes} | {"mean": ("accuracy",)}
    else:
        measure = "probability" if part == "low" else part
        paths = {name: ("low", "per_class", name, measure) for name in classes}
        paths["mean"] = ("low", "total", measure)
    return {name: cell(outcomes, *paths[name], paper=paper.get(name)) for name in every}


def _scores(
    planner: StagePlanner, network: str, found: Found, title: str, thresholds: Mapping[str, float]
) -> Table:
    rows: dict[Entry, Row] = {}
    for entry in entries({network: METHODS}):
        paper = {"threshold": thresholds.get(entry.method)} if entry.protocol == "epochs" else {}
        cells = {
            key: cell(found[entry.name], *path, paper=paper.get(key))
            for key, (path, _, _) in SCORES.items()
        }
        rows[entry] = row(planner, entry, found, cells)
    columns = tuple(Column(key, label, kind) for key, (_, label, kind) in SCORES.items())
    caption = "Uncertainty over all images; lower is better for the last three."
    return Table(f"{title}: beside it", caption, columns, tuple(rows.values()))


def reliability(planner: StagePlanner, network: str, found: Found) -> Figure:
    """The reliability diagrams of the first seed, equal epochs."""
    panels = []
    for entry in entries({network: METHODS}):
        if entry.protocol == "epochs":
            bins = found[entry.name][0].numbers["reliability"]
            title = row(planner, entry, found, {}).label
            panels.append({"title": title, **bins})
    return Figure(
        title="Reliability",
        caption="Accuracy against confidence in 15 bins, first seed, equal epochs; on the diagonal "
        "a network is as often right as it says.",
        alt="Reliability diagrams of the three methods; the calibration errors are in the table.",
        kind="reliability",
        data={"panels": panels},
    )


# Table 2: aleatoric uncertainty on CIFAR-10.

ABOUT2 = """\
A network with two heads, for logits f and their σ, is trained by Eq. 10–11 with T = {samples}
samples (Section 3.2). SIGN's images come from a Φ of the same architecture with the usual head,
trained classically. Probabilities are means of softmax over T samples. "p ≤ 0.5" are right
answers given with at most that probability: a method with few of them is confident where it is
right, which by itself is neither good nor bad; the calibration error beside it says whether the
confidence is deserved."""


def plan_table2(planner: StagePlanner) -> Plan:
    """Each method on the test images."""
    return stages(planner, planner.options("table2", **DEFAULTS)["network"], None)


def summarize_table2(planner: StagePlanner, found: Found) -> Experiment:
    """The paper's rows, calibration beside them."""
    network = planner.options("table2", **DEFAULTS)["network"]
    made = tables(planner, network, found, "Table 2", published.TABLE2, published.THRESHOLDS)
    return Experiment(
        name="table2",
        title="Table 2: aleatoric uncertainty on CIFAR-10",
        about=ABOUT2.format(samples=planner.scale.samples),
        stand_ins=stand_ins(planner, [network]),
        settings=settings(planner, [network], found),
        tables=made,
        figures=(reliability(planner, network, found),),
        findings=findings(made[0]),
    )


TABLE2 = Recipe("table2", plan_table2, summarize_table2)


# Table 3: networks trained on CIFAR-10, tested on Tiny ImageNet.

ABOUT3 = """\
The networks of Table 2 on images of another data set: those of Tiny ImageNet whose classes
CIFAR-10 has, resized from 64×64 to 32×32 by area. The paper gives counts by class and no synsets;
the validation images without greyscale ones of sports car, of goose, black stork and albatross,
of tabby, of all six dogs and both frogs give its counts exactly, so these are taken. A prediction
may be any of the ten classes. The mean is over images, as the paper's is."""


def plan_table3(planner: StagePlanner) -> Plan:
    """Each method on the other data set's images."""
    network = planner.options("table3", **DEFAULTS)["network"]
    return stages(planner, network, planner.ood())


def summarize_table3(planner: StagePlanner, found: Found) -> Experiment:
    """The paper's rows, calibration beside them."""
    network = planner.options("table3", **DEFAULTS)["network"]
    made = tables(planner, network, found, "Table 3", published.TABLE3, {})
    counts = next(iter(found.values()))[0].numbers["counts"]
    told = {
        **settings(planner, [network], found),
        "images": ", ".join(f"{n} {c}" for c, n in counts.items()),
    }
    return Experiment(
        name="table3",
        title="Table 3: out of distribution, Tiny ImageNet",
        about=ABOUT3,
        stand_ins=stand_ins(planner, [network], ood=True),
        settings=told,
        tables=made,
        findings=findings(made[0]),
    )


TABLE3 = Recipe("table3", plan_table3, summarize_table3)
