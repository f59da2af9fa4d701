"""Measured choices: made once for each shape, saved, passed back, and never by default."""

from __future__ import annotations

import json

import pytest
import torch
from networks import basic_cnn

from sign_ext import SignTransform
from sign_ext.engine.fused import engine as engine_module
from sign_ext.engine.fused.tuning_plan import StepChoices, TuningPlan, choices_by_rule

STEP = 2000.0


@pytest.fixture
def images(torch_rng):
    return torch.rand(6, 3, 8, 12, generator=torch_rng) * 255


@pytest.fixture
def model():
    return basic_cnn(8, 12, 4).eval()


def test_nothing_is_measured_by_default(monkeypatch, model, images):
    monkeypatch.setattr(engine_module, "measure_choices", None)
    sign = SignTransform(model, 2, step_size=STEP, backend="fused")
    sign.transform(images)
    assert sign.plan.choices == {}


def test_choices_are_measured_once_a_shape_and_used(monkeypatch, model, images):
    made = []

    def measured(program, dtype, given):
        made.append(given.shape)
        return StepChoices(2, (1, 3))

    monkeypatch.setattr(engine_module, "measure_choices", measured)
    sign = SignTransform(model, 2, step_size=STEP, backend="fused", tune=True)
    tuned = sign.transform(images)
    sign.transform(images)
    assert made == [images.shape]
    step = sign.step(images)
    assert (step.micro_batch, step.choices.by_library) == (2, (1, 3))
    plain = SignTransform(model, 2, step_size=STEP, backend="fused").transform(images)
    torch.testing.assert_close(tuned, plain, rtol=1e-5, atol=1e-2)


def test_a_real_measurement_gives_a_plan_that_can_be_passed_back(tmp_path, model, images):
    sign = SignTransform(model, 2, step_size=STEP, backend="fused", tune=True)
    tuned = sign.transform(images)
    assert list(sign.plan.choices) == ["6×3×8×12 float32"]
    assert f"torch {torch.__version__}" in str(sign.plan)
    assert "images at a time" in str(sign.plan)
    sign.plan.save(tmp_path / "plan.json")
    again = TuningPlan.load(tmp_path / "plan.json")
    assert again == sign.plan
    other = SignTransform(model, 2, step_size=STEP, backend="fused", tune=again)
    assert torch.equal(other.transform(images), tuned)
    changed = other.with_options(steps=3)
    assert changed.plan is again


def test_a_float64_network_is_measured_in_float64(model, images):
    sign = SignTransform(model.double(), 2, step_size=STEP, backend="fused", tune=True)
    moved = sign.transform(images.double())
    assert moved.dtype == torch.float64
    assert len(sign.plan.choices) == 1


def test_the_librarys_switches_are_set_while_measuring(monkeypatch, model, images):
    """As they are when the chosen step runs, whatever the caller has set."""
    seen = []

    def watched(program, dtype, given):
        seen.append((torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic))
        return StepChoices(len(given))

    monkeypatch.setattr("sign_ext.engine.fused.engine.measure_choices", watched)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    SignTransform(model, 2, step_size=STEP, backend="fused", tune=True).transform(images)
    assert seen == [(False, True)]
    assert torch.backends.cudnn.benchmark


def test_a_file_that_is_no_plan_is_refused(tmp_path):
    file = tmp_path / "plan.json"
    for content in ("not json", "[]", json.dumps({"format": 99}), json.dumps({"format": 1})):
        file.write_text(content)
        with pytest.raises(ValueError, match=r"plan\.json is not a tuning plan"):
            TuningPlan.load(file)


def test_the_rule_cuts_batches_into_equal_parts():
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    assert choices_by_rule(1 << 20, 72, cpu).micro_batch == 18
    assert choices_by_rule(1 << 20, 19, cpu).micro_batch == 10
    assert choices_by_rule(1 << 20, 7, cpu).micro_batch == 7
    assert choices_by_rule(1 << 30, 7, cpu).micro_batch == 1
    assert choices_by_rule(1 << 30, 7, cuda).micro_batch == 7


def test_tune_is_checked(model):
    with pytest.raises(TypeError, match="tune must be True, False or a TuningPlan, got 'yes'"):
        SignTransform(model, tune="yes")
