"""The sweep that the paper lacks: accuracy and robustness against step size and K."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sign_ext.experiments.planner import StagePlanner, as_many_steps
from sign_ext.experiments.recipes.recipe import Found, Plan, Recipe, cell, keys
from sign_ext.experiments.recipes.summary import means, settings, stand_ins
from sign_ext.experiments.stages.networks import Train, Transform
from sign_ext.experiments.stages.runner import Outcome
from sign_ext.report.schema import Cell, Column, Experiment, Figure, Row, Table

DEFAULTS: dict[str, Any] = {
    "network": "basic_cnn",
    "factors": (0.1, 0.3, 1.0, 3.0, 10.0),
    "steps": (10, 50, 100),
}
MEASURES = {
    "validation": ("validation_accuracy", "Validation accuracy"),
    "normal": ("accuracy", "Test accuracy"),
    "pixels_off": ("pixels_off_mean", "Pixels off"),
    "noise": ("noise_mean", "Noise"),
}
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
for seeing, not for choosing."""


@dataclass(frozen=True)
class Setting:
    """One point of the grid."""

    factor: float
    steps: int

    @property
    def name(self) -> str:
        """Its name in the plan."""
        return f"{self.factor:g}×/K={self.steps}"


def _grid(options: dict[str, Any]) -> list[Setting]:
    return [Setting(float(f), int(k)) for k in options["steps"] for f in options["factors"]]


def plan(planner: StagePlanner) -> Plan:
    """The baseline and each setting, with each seed."""
    options = planner.options("step_size", **DEFAULTS)
    network = options["network"]
    stages: Plan = {
        "baseline": tuple(
            planner.classify(as_many_steps(planner.phi(network, seed), 2), network)
            for seed in planner.seeds
        )
    }
    for setting in _grid(options):
        stages[setting.name] = tuple(
            planner.classify(_train(planner, options, setting, seed), network)
            for seed in planner.seeds
        )
    return stages


def _train(planner: StagePlanner, options: dict[str, Any], setting: Setting, seed: int) -> Train:
    # One trajectory serves all K of a step size.
    made = planner.transform(
        planner.phi(options["network"], seed),
        snapshots=tuple(sorted(options["steps"])),
        factor=setting.factor,
    )
    return planner.train(options["network"], "sign", seed, sign=made, versions=(setting.steps,))


def summarize(planner: StagePlanner, found: Found) -> Experiment:
    """The table, a curve for each K, and which setting validation would choose."""
    options = planner.options("step_size", **DEFAULTS)
    network, grid = options["network"], _grid(options)
    label = planner.network(network).label
    baseline = {k: cell(found["baseline"], path) for k, (path, _) in MEASURES.items()}
    rows = [Row("Classical, as many steps", label, baseline, stages=keys(found["baseline"]))]
    for setting in grid:
        outcomes = found[setting.name]
        cells = {k: cell(outcomes, path) for k, (path, _) in MEASURES.items()}
        rows.append(
            Row(
                f"{setting.factor:g} × calibrated",
                f"{label}, K = {setting.steps}",
                {**_changes(planner, outcomes, setting), **cells},
                stages=keys(outcomes),
            )
        )
    images = found["baseline"][0].numbers["images"]
    caption = f"Originals joined with one version of themselves; {images:,} test images."
    table = Table("Step size and K", caption, COLUMNS, tuple(rows))
    return Experiment(
        name="step_size",
        title="Step size and K (not in the paper)",
        about=ABOUT,
        stand_ins=stand_ins(planner, [network]),
        settings=settings(planner, [network], found),
        tables=(table,),
        figures=tuple(_figure(planner, found, grid, key) for key in MEASURES),
        findings=_findings(found, grid),
    )


def _changes(
    planner: StagePlanner, outcomes: Sequence[Outcome], setting: Setting
) -> dict[str, Cell]:
    made = [planner.numbers(_transform(outcome)) for outcome in outcomes]
    changes = [numbers["change"][str(setting.steps)] for numbers in made]
    return {
        "step": Cell(tuple(numbers["step_size"] for numbers in made)),
        "rms": Cell(tuple(each["rms"] for each in changes)),
        "negative": Cell(tuple(each["share_negative"] for each in changes)),
    }


def _transform(outcome: Outcome) -> Transform:
    trained = outcome.stage.inputs()["network"]
    assert isinstance(trained, Train)
    assert trained.sign is not None
    return trained.sign


def _figure(planner: StagePlanner, found: Found, grid: Sequence[Setting], key: str) -> Figure:
    path, label = MEASURES[key]
    lines: list[dict[str, Any]] = []
    for steps in sorted({setting.steps for setting in grid}):
        of_steps = [setting for setting in grid if setting.steps == steps]
        points = sorted(
            (
                _mean(_changes(planner, found[s.name], s)["rms"].values),
                [float(o.numbers[path]) for o in found[s.name]],
            )
            for s in of_steps
        )
        lines.append(
            {
                "label": f"K = {steps}",
                "x": [x for x, _ in points],
                "y": [_mean(values) for _, values in points],
                "low": [min(values) for _, values in points],
                "high": [max(values) for _, values in points],
            }
        )
    xs = [x for line in lines for x in line["x"]]
    base = means(found["baseline"], path)
    lines.append(
        {
            "label": "Classical, as many steps",
            "x": [min(xs), max(xs)],
            "y": [base, base],
            "low": None,
            "high": None,
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


def _mean(values: Sequence[float | None]) -> float:
    there = [v for v in values if v is not None]
    return sum(there) / len(there)


def _findings(found: Found, grid: Sequence[Setting]) -> tuple[str, ...]:
    path = MEASURES["validation"][0]
    best = max(grid, key=lambda setting: means(found[setting.name], path))
    ours, base = found[best.name], found["baseline"]
    parts = [
        f"{label.lower()} {100 * means(ours, p):.1f}% against {100 * means(base, p):.1f}%"
        for p, label in MEASURES.values()
    ]
    return (
        f"Validation accuracy would choose {best.factor:g} × the calibrated step size with "
        f"K = {best.steps}: {', '.join(parts)} of classical training with as many steps.",
    )


RECIPE = Recipe("step_size", plan, summarize)
