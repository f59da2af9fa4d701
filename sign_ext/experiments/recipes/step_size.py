"""The sweep that the paper lacks: accuracy and robustness against step size and K."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sign_ext.experiments.planner import StagePlanner, with_equal_steps
from sign_ext.experiments.recipes.recipe import (
    OutcomesByName,
    Recipe,
    StagesByName,
    artefacts,
    cell,
    doubts,
)
from sign_ext.experiments.recipes.summary import findings, settings_used, stand_ins
from sign_ext.experiments.stages.networks import Train, Transform
from sign_ext.experiments.stages.stage import Outcome
from sign_ext.report.schema import Cell, Column, Experiment, Figure, Row, Table
from sign_ext.report.verdict import compare_rows

DEFAULTS: dict[str, Any] = {
    "network": "basic_cnn",
    "factors": (0.1, 0.3, 1.0, 3.0, 10.0),
    "steps": (10, 50, 100),
}
BASELINE = "Classical, as many steps"
TITLE = "Step size and K"
# Column → its key in an evaluation, its heading.
MEASURES = {
    "validation": ("validation_accuracy", "Validation accuracy"),
    "normal": ("accuracy", "Test accuracy"),
    "pixels_off": ("pixels_off_mean", "Pixels off"),
    "noise": ("noise_mean", "Noise"),
}
# Column → which answers to each image it counts; methods are compared in these columns.
SAMPLES = {"normal": "correct", "pixels_off": "pixels_off", "noise": "noise"}
COLUMNS = (
    Column("step", "Step size", "number"),
    Column("rms", "rms change", "number"),
    Column("negative", "Below 0"),
    *(Column(key, label) for key, (_, label) in MEASURES.items()),
)

ABOUT = """\
The paper gives K = 50 and 100 and no step size, although δ is a gradient, whose size depends on
the units of the input. Here the originals are joined with one version, for each K and step size
(multiples of the calibrated one), and a network is trained on them with classical augmentation;
rms change is that of the training images, in grey levels. The baseline is classical training with
as many gradient steps. The setting is to be chosen by validation accuracy; the test columns are
to look at, not to choose by."""


@dataclass(frozen=True)
class GridPoint:
    """A step size, as a multiple of the calibrated one, and K."""

    factor: float
    steps: int

    @property
    def name(self) -> str:
        """Its name among the recipe's stages."""
        return f"{self.factor:g}×/K={self.steps}"


def _grid(options: dict[str, Any]) -> list[GridPoint]:
    return [GridPoint(float(f), int(k)) for k in options["steps"] for f in options["factors"]]


def plan(planner: StagePlanner) -> StagesByName:
    """The baseline and each setting, with each seed."""
    options = planner.options("step_size", **DEFAULTS)
    network = options["network"]
    method = planner.task(network).baseline
    baselines = [planner.train(network, method, seed) for seed in planner.seeds]
    stages: StagesByName = {
        "baseline": tuple(
            planner.classify(with_equal_steps(each, 2), network) for each in baselines
        )
    }
    for point in _grid(options):
        stages[point.name] = tuple(
            planner.classify(_train(planner, options, point, seed), network)
            for seed in planner.seeds
        )
    return stages


def _train(planner: StagePlanner, options: dict[str, Any], point: GridPoint, seed: int) -> Train:
    # One trajectory serves all K of a step size.
    versions = planner.transform(
        planner.phi(options["network"], seed),
        snapshots=tuple(sorted(options["steps"])),
        factor=point.factor,
    )
    return planner.train(options["network"], "sign", seed, sign=versions, versions=(point.steps,))


def summarize(planner: StagePlanner, outcomes: OutcomesByName) -> Experiment:
    """The table, a curve for each K, and which setting validation would choose."""
    options = planner.options("step_size", **DEFAULTS)
    network, grid = options["network"], _grid(options)
    label = planner.network(network).label
    baseline = outcomes["baseline"]
    rows = [
        Row(
            BASELINE,
            label,
            _accuracies(baseline),
            stages=artefacts(baseline),
            doubts=doubts(planner, baseline),
        )
    ]
    for point in grid:
        of_point = outcomes[point.name]
        rows.append(
            Row(
                f"{point.factor:g} × calibrated",
                f"{label}, K = {point.steps}",
                {**_changes(planner, of_point, point), **_accuracies(of_point)},
                stages=artefacts(of_point),
                doubts=doubts(planner, of_point),
            )
        )
    images = baseline[0].numbers["images"]
    caption = f"Originals joined with one version of themselves; {images:,} test images."
    margin = planner.scale.margins.accuracy
    columns = tuple(
        replace(column, margin=margin) if column.key in SAMPLES else column for column in COLUMNS
    )
    compared = [
        compare_rows(
            column.key, row, rows[0], images=images, kind=column.kind, margin=column.margin
        )
        for row in rows[1:]
        for column in columns
        if column.key in SAMPLES
    ]
    table = Table(TITLE, caption, columns, tuple(rows), tuple(compared), images)
    return Experiment(
        name="step_size",
        title="Step size and K (not in the paper)",
        about=ABOUT,
        stand_ins=stand_ins(planner, [network]),
        settings=settings_used(planner, [network], outcomes),
        tables=(table,),
        figures=tuple(_figure(planner, outcomes, grid, key) for key in MEASURES),
        findings=findings_of(table),
    )


def _accuracies(outcomes: Sequence[Outcome]) -> dict[str, Cell]:
    return {
        column: cell(outcomes, key, samples=SAMPLES.get(column, ""))
        for column, (key, _) in MEASURES.items()
    }


def _changes(
    planner: StagePlanner, outcomes: Sequence[Outcome], point: GridPoint
) -> dict[str, Cell]:
    transforms = [planner.numbers(_transform_of(outcome)) for outcome in outcomes]
    changes = [numbers["change"][str(point.steps)] for numbers in transforms]
    return {
        "step": Cell(tuple(numbers["step_size"] for numbers in transforms)),
        "rms": Cell(tuple(each["rms"] for each in changes)),
        "negative": Cell(tuple(each["share_negative"] for each in changes)),
    }


def _transform_of(outcome: Outcome) -> Transform:
    trained = outcome.stage.inputs()["network"]
    assert isinstance(trained, Train)
    assert isinstance(trained.sign, Transform)
    return trained.sign


def _figure(
    planner: StagePlanner, outcomes: OutcomesByName, grid: Sequence[GridPoint], measure: str
) -> Figure:
    key, label = MEASURES[measure]
    lines = [
        _line(planner, outcomes, [point for point in grid if point.steps == steps], key)
        for steps in sorted({point.steps for point in grid})
    ]
    xs = [x for line in lines for x in line["x"]]
    baseline = [float(outcome.numbers[key]) for outcome in outcomes["baseline"]]
    lines.append(
        {
            "label": BASELINE,
            "x": [min(xs), max(xs)],
            "y": [_mean(baseline)] * 2,
            "low": [min(baseline)] * 2,
            "high": [max(baseline)] * 2,
        }
    )
    return Figure(
        title=f"{label} against the change",
        caption=f"{label} against the rms change of the training images; bands from the lowest to "
        "the highest seed.",
        alt=f"{label} for each K as a curve over the rms change; the numbers are in the table.",
        kind="lines",
        data={
            "x": "rms change, grey levels",
            "y": label,
            "log_x": True,
            "percent": True,
            "lines": lines,
        },
    )


def _line(
    planner: StagePlanner, outcomes: OutcomesByName, points: Sequence[GridPoint], key: str
) -> dict[str, Any]:
    """The curve of one K: a measure over the rms change, by increasing change."""
    curve = sorted(
        (
            _mean(_changes(planner, outcomes[point.name], point)["rms"].values),
            [float(outcome.numbers[key]) for outcome in outcomes[point.name]],
        )
        for point in points
    )
    return {
        "label": f"K = {points[0].steps}",
        "x": [x for x, _ in curve],
        "y": [_mean(values) for _, values in curve],
        "low": [min(values) for _, values in curve],
        "high": [max(values) for _, values in curve],
    }


def _mean(values: Sequence[float | None]) -> float:
    present = [value for value in values if value is not None]
    return sum(present) / len(present)


def findings_of(table: Table) -> tuple[str, ...]:
    """Which setting validation accuracy would choose, and what the test set says of it."""
    baseline, *points = table.rows
    best = max(points, key=lambda row: _mean(row.cells["validation"].values))
    parts = [
        f"{label.lower()} {100 * _mean(best.cells[key].values):.1f}% against "
        f"{100 * _mean(baseline.cells[key].values):.1f}%"
        for key, (_, label) in MEASURES.items()
    ]
    setting = best.label.replace(" calibrated", " the calibrated step size")
    return (
        f"Validation accuracy would choose {setting} with {best.group.rpartition(', ')[2]}: "
        f"{', '.join(parts)} for classical training with as many steps.",
        *findings(table),
    )


RECIPE = Recipe("step_size", plan, summarize)
