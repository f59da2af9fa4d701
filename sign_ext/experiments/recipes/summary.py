"""What every experiment tells in the same way: its settings, its stand-ins, its findings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.recipes.recipe import Found
from sign_ext.experiments.stages.networks import Transform
from sign_ext.experiments.stages.runner import Outcome
from sign_ext.experiments.stages.stage import in_order
from sign_ext.formatting import signed
from sign_ext.report.schema import Cell, Column, Comparison, Table
from sign_ext.report.wording import listed


def stand_ins(
    planner: StagePlanner, networks: Iterable[str], *, ood: bool = False
) -> tuple[str, ...]:
    """What stands for the paper's data and networks; empty where nothing does."""
    found = []
    for name in networks:
        found += [planner.task(name).stand_in, planner.network(name).note]
    if ood:
        found.append(planner.scale.ood_stand_in)
    return tuple(dict.fromkeys(each for each in found if each))


def settings(
    planner: StagePlanner, networks: Iterable[str], found: Found, *, sign: bool = True
) -> dict[str, Any]:
    """What a reader needs to repeat an experiment, in the order of importance.

    K and the step sizes are those of all `Transform` stages that the outcomes rest on.
    """
    told: dict[str, Any] = {}
    if sign:
        told |= _sign_settings(planner, found)
    for name in networks:
        network, task = planner.network(name), planner.task(name)
        images = {part: planner.images(task, part) for part in ("train", "validation", "test")}
        size = planner.sources.read(planner.source(task)).image_shape[1:]
        told[network.label] = (
            f"{network.model} {network.options or ''}".strip()
            + f", {network.epochs} epochs, batch size {task.batch_size}, {network.optimizer} at "
            f"{network.learning_rate:g} ({network.schedule}), {network.precision}; "
            f"{task.data} at {size[0]}×{size[1]}, {images['train']:,} training, "
            f"{images['validation']:,} validation and {images['test']:,} test images"
        )
    return told


def _sign_settings(planner: StagePlanner, found: Found) -> dict[str, Any]:
    steps: dict[str, dict[str, float]] = {}
    changes: dict[str, dict[str, float]] = {}
    snapshots: set[int] = set()
    stages = in_order([outcome.stage for each in found.values() for outcome in each])
    for stage in stages:
        if isinstance(stage, Transform) and stage.part == "train":
            numbers = planner.numbers(stage)
            options = "".join(f", {k} {v}" for k, v in stage.phi.network.options.items())
            label = stage.phi.network.model + options
            if stage.factor != 1:
                label += f", {stage.factor:g} × calibrated"
            seed, last = str(stage.phi.settings.seed), str(max(stage.snapshots))
            steps.setdefault(label, {})[seed] = numbers["step_size"]
            changes.setdefault(label, {})[seed] = numbers["change"][last]["rms"]
            snapshots.update(stage.snapshots)
    if not snapshots:
        return {}
    told: dict[str, Any] = {
        "K": listed(sorted(snapshots)),
        "step size chosen so that the rms change is": (
            f"{planner.scale.sign.target_share:.1%} of 255 "
            f"on {planner.scale.sign.calibration_images} validation images"
        ),
    }
    for label, values in steps.items():
        told[f"step size with Φ = {label}"] = values
        told[f"rms change with Φ = {label}, grey levels"] = changes[label]
    return told


def findings(table: Table) -> tuple[str, ...]:
    """Say a table's comparisons in words: each pair that is decided or that the paper has.

    All numbers of every comparison stand below the table in the report.
    """
    columns = {column.key: column for column in table.columns}
    cells = {(row.group, row.label): row.cells for row in table.rows}
    pairs: dict[tuple[str, str, str], list[tuple[Comparison, float | None]]] = {}
    for each in table.comparisons:
        paper = _paper_difference(
            cells[each.group, each.method][each.column],
            cells[each.baseline_group, each.baseline][each.column],
        )
        pair = (each.group, each.method, each.baseline)
        pairs.setdefault(pair, []).append((each, paper))
    told, silent = [], 0
    for (group, method, baseline), compared in pairs.items():
        if all(c.verdict == "undecided" and paper is None for c, paper in compared):
            silent += len(compared)
            continue
        parts = [_difference(c, columns[c.column], paper) for c, paper in compared]
        told.append(f"{group}: {method} against {baseline}: {'; '.join(parts)}.")
    if silent:
        what = (
            f"{silent} {'other ' if told else ''}comparison{'s show' if silent > 1 else ' shows'}"
        )
        told.append(f"{what} no difference that these seeds and images can resolve.")
    return tuple(told)


def _paper_difference(method: Cell, baseline: Cell) -> float | None:
    if method.paper is None or baseline.paper is None:
        return None
    return method.paper - baseline.paper


def _difference(each: Comparison, column: Column, paper: float | None) -> str:
    share = column.kind == "share"
    factor, unit, digits = (100.0, " points", 1) if share else (1.0, "", 3)
    text = f"{column.label} {signed(factor * each.difference, digits)}{unit}, {each.verdict}"
    if paper is not None:
        text += f" (the paper {signed(factor * paper, digits)})"
    return text


def means(outcomes: Sequence[Outcome], *path: str) -> float:
    """The mean of one number over seeds."""
    values = []
    for outcome in outcomes:
        value: Any = outcome.numbers
        for key in path:
            value = value[key]
        values.append(float(value))
    return sum(values) / len(values)
