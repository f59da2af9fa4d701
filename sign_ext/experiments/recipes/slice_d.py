"""Slice D: what SIGN does to images and to networks, measured on what slice A has made.

The paper's sentences beside its tables. docs/results/PROTOCOL.md says what is measured; it only
describes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.recipes import cancel_attack, inputs_used, phi_answers, sign_at_inference
from sign_ext.experiments.recipes.arms import arms
from sign_ext.experiments.recipes.recipe import (
    OutcomesByName,
    Recipe,
    RowSpec,
    StagesByName,
    present,
    stages_of_rows,
)
from sign_ext.experiments.recipes.summary import settings_used, stand_ins
from sign_ext.experiments.stages.networks import Transform
from sign_ext.experiments.stages.stage import Stage
from sign_ext.experiments.stages.versions import (
    Attack,
    CancelAttack,
    ClassifyVersions,
    FollowPath,
    MeasureInputs,
)
from sign_ext.report.schema import Experiment, Table

DEFAULTS: dict[str, Any] = {
    "network": "basic_cnn",
    "images": 2000,
    "points": 10,
    "inputs": ["classical", "noise", "mixup", "sign"],
    "inference": ["classical", "sign"],
    "epsilons": (1.0, 2.0, 8.0),
    "attack_steps": 10,
    "attacked": 500,
}
TITLE = "Slice D: what SIGN does to images and to networks"
ABOUT = """\
One seed a slice: Φ and the networks are those of slice A, and nothing is trained. Four questions on
the same test images and their p*: whether Φ predicts p* better, whether networks trained with SIGN
use fewer inputs, whether SIGN helps at inference, and whether it cancels an attack that does not
know of it. docs/results/PROTOCOL.md, written before the first number, says what is measured. The
comparisons describe: they are in no family, and of twenty without a true difference one is expected
to be judged wrongly."""
PHI, INPUTS, INFERENCE, ATTACK = "phi", "inputs", "inference", "attack"  # parts of the plan


def plan(planner: StagePlanner) -> StagesByName:
    """One way from the test images to their p*, and what is asked on it."""
    options = planner.options("slice_d", **DEFAULTS)
    network = options["network"]
    kept = tuple(planner.scale.sign.snapshots)
    looked_at = phi_answers.looked_at(planner, options["points"])
    count = planner.image_count(planner.task(network), "test")
    images, attacked = min(options["images"], count), min(options["attacked"], count)

    def versions(seed: int) -> Transform:
        return planner.transform(
            planner.phi(network, seed), part="test", snapshots=looked_at, most=images
        )

    def trained(spec: RowSpec, seed: int) -> Any:
        return planner.train(spec.network, spec.method, seed, protocol=spec.protocol)

    def inputs(spec: RowSpec, seed: int) -> Stage:
        return MeasureInputs(trained(spec, seed), versions(seed), images, kept)

    def inference(spec: RowSpec, seed: int) -> Stage:
        return ClassifyVersions(trained(spec, seed), versions(seed), kept)

    def path(seed: int) -> Stage:
        phi = planner.phi(network, seed)
        return FollowPath(phi, planner.choose_step(phi), looked_at, images, versions(seed))

    def attack(epsilon: float, seed: int) -> Stage:
        phi = planner.phi(network, seed)
        how = Attack(float(epsilon), float(epsilon) / 4, options["attack_steps"])
        return CancelAttack(phi, planner.choose_step(phi), kept, how, attacked, versions(seed))

    return {
        f"{PHI}/{network}": tuple(path(seed) for seed in planner.seeds),
        **_named(INPUTS, stages_of_rows(planner, arms(network, options["inputs"]), inputs)),
        **_named(
            INFERENCE, stages_of_rows(planner, arms(network, options["inference"]), inference)
        ),
        **_named(
            ATTACK,
            {
                cancel_attack.attack_name(epsilon): tuple(
                    attack(epsilon, seed) for seed in planner.seeds
                )
                for epsilon in options["epsilons"]
            },
        ),
    }


def _named(part: str, stages: StagesByName) -> StagesByName:
    return {f"{part}/{name}": each for name, each in stages.items()}


def summarize(planner: StagePlanner, outcomes: OutcomesByName) -> Experiment:
    """A table for each question, as the experiment of that question alone has it."""
    options = planner.options("slice_d", **DEFAULTS)
    network = options["network"]

    def of(part: str) -> dict[str, Any]:
        start = f"{part}/"
        return {k.removeprefix(start): v for k, v in outcomes.items() if k.startswith(start)}

    def rows(part: str) -> Sequence[RowSpec]:
        return present(arms(network, options[part]), of(part))

    tables: dict[str, Table] = {
        PHI: phi_answers.answers_table(planner, of(PHI), [network]),
        INPUTS: inputs_used.inputs_table(planner, of(INPUTS), rows(INPUTS)),
        INFERENCE: sign_at_inference.inference_table(planner, of(INFERENCE), rows(INFERENCE)),
        ATTACK: cancel_attack.attack_table(planner, of(ATTACK), network, options["epsilons"]),
    }
    return Experiment(
        name="slice_d",
        title=TITLE,
        about=ABOUT,
        stand_ins=stand_ins(planner, [network]),
        settings={
            **phi_answers.changes(planner, of(PHI), [network]),
            "attack": cancel_attack.attack_in_words(options["attack_steps"]),
            **settings_used(planner, [network], {}),
        },
        tables=tuple(tables.values()),
        figures=(phi_answers.figure(planner.network(network).label, of(PHI)[network]),),
        findings=(
            *phi_answers.findings_of(tables[PHI]),
            *inputs_used.findings_of(tables[INPUTS]),
            *sign_at_inference.findings_of(tables[INFERENCE]),
            *cancel_attack.findings_of(tables[ATTACK]),
        ),
    )


RECIPE = Recipe("slice_d", plan, summarize)
