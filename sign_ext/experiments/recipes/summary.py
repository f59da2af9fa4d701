"""What every experiment reports in the same way: its settings, its stand-ins, its findings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.recipes.recipe import OutcomesByName
from sign_ext.experiments.stages.controls import MatchStep
from sign_ext.experiments.stages.networks import TUNING_SEED, ChooseStep, Transform
from sign_ext.experiments.stages.stage import Outcome, topological_order
from sign_ext.formatting import counted, listed, signed
from sign_ext.report.schema import Cell, Column, Comparison, Table


def stand_ins(
    planner: StagePlanner, networks: Iterable[str], *, ood: bool = False
) -> tuple[str, ...]:
    """What replaces the paper's data and networks; empty where nothing does."""
    notes = []
    for name in networks:
        notes += [planner.task(name).stand_in, planner.network(name).note]
    if ood:
        notes.append(planner.scale.ood_stand_in)
    return tuple(dict.fromkeys(note for note in notes if note))


def settings_used(
    planner: StagePlanner, networks: Iterable[str], outcomes: OutcomesByName
) -> dict[str, Any]:
    """What a reader needs to repeat an experiment, the most important first.

    K and the step sizes are those of all `Transform` stages behind the outcomes.
    """
    used = _sign_settings(planner, outcomes)
    for name in networks:
        network, task = planner.network(name), planner.task(name)
        images = {part: planner.image_count(task, part) for part in ("train", "validation", "test")}
        size = planner.sources.read(planner.source(task)).image_shape[1:]
        of_phi = f" ({network.phi_epochs} of Φ)" if network.phi_epochs else ""
        used[network.label] = (
            f"{network.model} {network.options or ''}".strip()
            + f", {counted(network.epochs, 'epoch')}{of_phi}, batch size {task.batch_size}, "
            f"{network.optimizer} at {planner.learning_rate(name):g} ({network.schedule}), "
            f"{network.precision}; {task.data} at {size[0]}×{size[1]}, {images['train']:,} "
            f"training, {images['validation']:,} validation and {images['test']:,} test images"
        )
    return used


def _sign_settings(planner: StagePlanner, outcomes: OutcomesByName) -> dict[str, Any]:
    step_sizes: dict[str, dict[str, float]] = {}
    changes: dict[str, dict[str, float]] = {}
    snapshots: set[int] = set()
    chosen: dict[str, str] = {}
    for stage in topological_order([each.stage for seeds in outcomes.values() for each in seeds]):
        # Only versions of the training images join a training set.
        tuning = isinstance(stage, Transform) and stage.phi.seed == TUNING_SEED
        # Where the step size matches SIGN's rms, that is said of the row.
        matched = isinstance(stage, Transform) and isinstance(stage.step, MatchStep)
        if isinstance(stage, Transform) and stage.part == "train" and not (tuning or matched):
            numbers = planner.numbers(stage)
            label = _phi_label(stage)
            seed, last = str(stage.phi.seed), str(max(stage.snapshots))
            step_sizes.setdefault(label, {})[seed] = numbers["step_size"]
            changes.setdefault(label, {})[seed] = numbers["change"][last]["rms"]
            snapshots.update(stage.snapshots)
            if isinstance(stage.step, ChooseStep):
                share = planner.numbers(stage.step)["share"]
                chosen[f"share of the range chosen with Φ = {label}"] = f"{share:.1%}"
    if not snapshots:
        return {}
    sign = planner.scale.sign
    if chosen:
        shares = f"the best of {listed(f'{each:.1%}' for each in sign.target_shares)}"
    else:
        shares = f"{sign.target_share:.1%}"
    used: dict[str, Any] = {
        "K": listed(sorted(snapshots)),
        "step size chosen so that the rms change is": (
            f"{shares} of 255 on {counted(sign.calibration_images, 'validation image')}"
        ),
        **chosen,
    }
    for label, by_seed in step_sizes.items():
        used[f"step size with Φ = {label}"] = by_seed
        used[f"rms change with Φ = {label}, grey levels"] = changes[label]
    return used


def _phi_label(stage: Transform) -> str:
    network = stage.phi.network
    label = network.model + "".join(f", {name} {value}" for name, value in network.options.items())
    return label if stage.factor == 1 else f"{label}, {stage.factor:g} × calibrated"


def findings(table: Table) -> tuple[str, ...]:
    """A table's comparisons in sentences: each pair that is decided or that the paper has.

    The report has all numbers of every comparison below the table.
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
    sentences, undecided = [], 0
    for (group, method, baseline), compared in pairs.items():
        if all(c.verdict == "undecided" and paper is None for c, paper in compared):
            undecided += len(compared)
            continue
        parts = [_difference(c, columns[c.column], paper) for c, paper in compared]
        sentences.append(f"{group}: {method} against {baseline}: {'; '.join(parts)}.")
    if undecided:
        other = "other " if sentences else ""
        subject = f"{undecided} {other}comparison{'s are' if undecided > 1 else ' is'}"
        sentences.append(f"{subject} undecided with these seeds and images.")
    return tuple(sentences)


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


def mean_over_seeds(outcomes: Sequence[Outcome], key: str) -> float:
    """The mean of one number over seeds."""
    values = [float(outcome.numbers[key]) for outcome in outcomes]
    return sum(values) / len(values)
