"""Step size and learning rate are chosen by validation, once, with a seed that no table has."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from sign_ext.experiments.reproduce import Reproduction
from sign_ext.experiments.scale import load_scale
from sign_ext.experiments.stages.networks import PHI_SEEDS, TUNING_SEED, ChooseStep
from sign_ext.experiments.stages.stage import Outcome


@pytest.fixture
def planner(tmp_path):
    return Reproduction(["table1"], load_scale("smoke"), (0, 1), tmp_path).planner


def test_candidates_are_the_same_for_every_seed_and_in_no_table(planner) -> None:
    steps = [planner.transform(planner.phi("basic_cnn", seed)).step for seed in (0, 1)]
    assert all(isinstance(step, ChooseStep) for step in steps)
    first, second = steps
    assert [a.key for a in first.candidates] == [b.key for b in second.candidates]
    assert first.key != second.key  # each Φ has its own step size
    for share, candidate, calibration in zip(
        first.shares, first.candidates, first.calibrations, strict=True
    ):
        assert candidate.settings.seed == TUNING_SEED
        teacher = candidate.sign.phi
        assert teacher.settings.seed == TUNING_SEED + PHI_SEEDS
        assert teacher.source == candidate.source
        assert teacher.source.fingerprint != planner.phi("basic_cnn", 0).source.fingerprint
        assert candidate.sign.step.target_share == calibration.target_share == share
        assert calibration.phi.key == planner.phi("basic_cnn", 0).key
        assert candidate.augment == planner.phi("basic_cnn", 0).augment
    table = Reproduction(["table1"], planner.scale, (0, 1), planner.runner.out).plan("table1")
    trained = [stage.inputs()["network"].seed for stages in table.values() for stage in stages]
    assert set(trained) == {0, 1}


@pytest.mark.parametrize(("scores", "chosen"), [((0.5, 0.6), 1), ((0.6, 0.6), 0), ((0.7, 0.6), 0)])
def test_the_best_checkpoint_on_validation_decides(planner, scores, chosen, tmp_path) -> None:
    stage = planner.transform(planner.phi("basic_cnn", 0)).step
    numbers = {}
    for candidate, score in zip(stage.candidates, scores, strict=True):
        rows = [{"validation_accuracy": each} for each in (0.1, score, 0.2)]
        numbers[candidate.key] = {"history": rows}
    for index, calibration in enumerate(stage.calibrations):
        numbers[calibration.key] = {"proposed": 10.0 + index}
    context = SimpleNamespace(outcome=lambda each: Outcome(each, Path(), numbers[each.key], 0.0))
    found = stage.run(context, tmp_path)
    assert found["proposed"] == 10.0 + chosen
    assert found["share"] == stage.shares[chosen]


def test_a_factor_is_of_the_calibrated_step_size(planner) -> None:
    phi = planner.phi("basic_cnn", 0)
    swept = planner.transform(phi, factor=1.0)
    assert swept.step.kind == "calibrate"
    assert swept.step.target_share == planner.scale.sign.target_share


def test_the_learning_rate_is_chosen_once_and_is_every_methods(planner, tmp_path) -> None:
    methods = ("classical", "mixup", "noise", "sign", "deepaugment")
    trained = [planner.train("basic_cnn", method, seed) for method in methods for seed in (0, 1)]
    trained += [planner.phi("basic_cnn", 0), planner.transform(trained[0]).step.candidates[0]]
    (key,) = {stage.rate.key for stage in trained}
    choice = planner.choose_rate("basic_cnn")
    assert choice.key == key
    assert planner.train("mobilenet_v2", "sign", 0).rate is None
    rates = [each.settings.learning_rate for each in choice.candidates]
    assert tuple(rates) == planner.network("basic_cnn").learning_rates
    assert {each.settings.seed for each in choice.candidates} == {TUNING_SEED}
    assert all(each.augment == ("classical",) and each.sign is None for each in choice.candidates)
    numbers = {
        candidate.key: {"history": [{"validation_accuracy": score}, {"validation_accuracy": 0.1}]}
        for candidate, score in zip(choice.candidates, (0.3, 0.4), strict=True)
    }
    context = SimpleNamespace(outcome=lambda each: Outcome(each, Path(), numbers[each.key], 0.0))
    found = choice.run(context, tmp_path)
    assert found["learning_rate"] == rates[1]
    numbers[choice.key] = found
    assert trained[0]._settings(context).learning_rate == rates[1]
    assert choice.candidates[0]._settings(context).learning_rate == rates[0]
