"""Does SIGN cancel adversarial perturbations? PGD, then SIGN, then classify."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.recipes.recipe import (
    OutcomesByName,
    Recipe,
    StagesByName,
    artefacts,
    doubts,
)
from sign_ext.experiments.recipes.summary import settings_used, stand_ins
from sign_ext.experiments.recipes.versions import compare, settled, version_cell
from sign_ext.experiments.stages.versions import NOISE, Attack, CancelAttack
from sign_ext.report.schema import Column, Experiment, Row, Table

DEFAULTS: dict[str, Any] = {
    "network": "basic_cnn",
    "epsilons": (1.0, 2.0, 8.0),
    "steps": 10,
    "images": 1000,
}
TITLE = "Attack, then SIGN"
QUESTION = "Does SIGN cancel the attack?"
PLAIN, ATTACKED = "p", "attacked p"

ABOUT = """\
The paper ends with the question whether SIGN could "cancel out the adversarial perturbations added
by adversarial attack strategies" (Section 4). Test images are attacked by PGD with a random start
in the L∞ ball of radius ε (grey levels), steps of ε/4; the network’s own SIGN then moves them, with
the step size of the other experiments, and the network classifies. Noise as large as SIGN’s change
stands beside it, because any disturbance can break an attack. The attack does not know of SIGN:
where SIGN helps here, an attack that does may still succeed; where it does not help, that needs no
trial."""


def plan(planner: StagePlanner) -> StagesByName:
    """Φ under attack, for each ε and seed."""
    options = planner.options("cancel_attack", **DEFAULTS)
    network = options["network"]
    count = planner.image_count(planner.task(network), "test")
    phis = [planner.phi(network, seed) for seed in planner.seeds]
    return {
        attack_name(epsilon): tuple(
            CancelAttack(
                phi,
                planner.choose_step(phi),
                tuple(planner.scale.sign.snapshots),
                Attack(float(epsilon), float(epsilon) / 4, options["steps"]),
                min(options["images"], count),
            )
            for phi in phis
        )
        for epsilon in options["epsilons"]
    }


def attack_name(epsilon: float) -> str:
    """The name of an attack's stages.

    Args:
        epsilon: grey levels.
    """
    return f"epsilon {epsilon:g}"


def summarize(planner: StagePlanner, outcomes: OutcomesByName) -> Experiment:
    """The table, with comparisons to the attacked images and to noise."""
    options = planner.options("cancel_attack", **DEFAULTS)
    network, epsilons = options["network"], options["epsilons"]
    table = attack_table(planner, outcomes, network, epsilons)
    label = planner.network(network).label
    return Experiment(
        name="cancel_attack",
        title="Does SIGN cancel an attack? (Section 4)",
        about=ABOUT,
        stand_ins=stand_ins(planner, [network]),
        settings={
            "attack": attack_in_words(options["steps"]),
            f"step size with Φ = {label}": {
                str(seed): outcome.numbers["step_size"]
                for seed, outcome in zip(planner.seeds, next(iter(outcomes.values())), strict=True)
            },
            **settings_used(planner, [network], {}),
        },
        tables=(table,),
        findings=findings_of(table),
    )


def attack_in_words(steps: int) -> str:
    """Name the attack, for an experiment's settings."""
    return f"PGD in the L∞ ball, {steps} steps of ε/4, random start"


def attack_table(
    planner: StagePlanner, outcomes: OutcomesByName, network: str, epsilons: Sequence[float]
) -> Table:
    """The table, with comparisons to the attacked images and to noise.

    Args:
        planner: has the scale.
        outcomes: of a `CancelAttack` a seed, by `attack_name`.
        network: Φ's name in the scale.
        epsilons: of the attacks, grey levels.
    """
    snapshots = planner.scale.sign.snapshots
    label = planner.network(network).label
    columns = (
        Column("accuracy", "Accuracy", margin=planner.scale.margins.accuracy),
        Column("probability", "Probability of the true class"),
    )
    rows = []
    for epsilon in epsilons:
        of_attack = outcomes[attack_name(epsilon)]
        for start, version in ((PLAIN, "p"), (ATTACKED, "attacked")):
            ways = {start: version}
            ways |= {f"{start}, then SIGN, K = {k}": f"{version}_{k}" for k in snapshots}
            ways[f"{start}, then noise as large"] = f"{version}_{NOISE}"
            for row, measured in ways.items():
                cells = {each.key: version_cell(of_attack, measured, each.key) for each in columns}
                group = f"Φ = {label}, ε = {epsilon:g}"
                rows.append(
                    Row(
                        row,
                        group,
                        cells,
                        stages=artefacts(of_attack),
                        doubts=doubts(planner, of_attack),
                    )
                )
    images = outcomes[attack_name(epsilons[0])][0].numbers["images"]
    return Table(
        title=TITLE,
        caption=f"Answers on {images:,} test images.",
        columns=columns,
        rows=tuple(rows),
        comparisons=compare(rows, pairs(snapshots), columns, images),
        images=images,
    )


def pairs(snapshots: Sequence[int]) -> list[tuple[str, str]]:
    """Each K against no SIGN, of attacked images and of p; and the largest against noise."""
    found = [
        (f"{start}, then SIGN, K = {k}", start) for start in (ATTACKED, PLAIN) for k in snapshots
    ]
    last = f"{ATTACKED}, then SIGN, K = {max(snapshots)}"
    return [*found, (last, f"{ATTACKED}, then noise as large")]


def findings_of(table: Table) -> tuple[str, ...]:
    """The answer, from attacked images with SIGN against those without, and against noise."""
    return settled(
        table,
        QUESTION,
        [(c.method, c.baseline) for c in table.comparisons if c.method.startswith(ATTACKED)],
    )


RECIPE = Recipe("cancel_attack", plan, summarize)
