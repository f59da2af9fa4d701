"""Choices by the fixed rule, or measured: once a shape, saved, passed back, never by default."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from block_programs import CASES, block_program
from networks import basic_cnn
from torch import nn

from sign_ext import SignTransform
from sign_ext.compiler.ir.inverted_residual import InvertedResidual, fuse_blocks
from sign_ext.engine.fused import engine, tune
from sign_ext.engine.fused.bind import inverted_residual
from sign_ext.engine.fused.tune import is_faster_fused, isolated_programs, measure_blocks
from sign_ext.engine.fused.tuning_plan import StepChoices, StepCosts, TuningPlan, choices_by_rule
from sign_ext.ops.inverted_residual import inverted_residual_backward

F32 = torch.float32
STEP = 2000.0


@pytest.fixture
def images(torch_rng):
    return torch.rand(6, 3, 8, 12, generator=torch_rng) * 255


@pytest.fixture
def model():
    return basic_cnn(8, 12, 4).eval()


def test_nothing_is_measured_by_default(monkeypatch, model, images):
    monkeypatch.setattr(engine, "measure_choices", None)
    sign = SignTransform(model, 2, step_size=STEP, backend="fused")
    sign.transform(images)
    assert sign.plan.choices == {}


def test_choices_are_measured_once_a_shape_and_used(monkeypatch, model, images):
    made = []

    def measured(program, dtype, given):
        made.append(given.shape)
        return StepChoices(2, (1, 3))

    monkeypatch.setattr(engine, "measure_choices", measured)
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
    small, large = StepCosts(1 << 20), StepCosts(1 << 30)
    assert choices_by_rule(small, 72, cpu).micro_batch == 18
    assert choices_by_rule(small, 19, cpu).micro_batch == 10
    assert choices_by_rule(small, 7, cpu).micro_batch == 7
    assert choices_by_rule(large, 7, cpu).micro_batch == 1
    assert choices_by_rule(large, 7, cuda).micro_batch == 7


def test_the_rule_shares_calls_and_weights_among_more_images():
    """As many as pay for what then has to come back from memory."""
    cpu = torch.device("cpu")
    few = StepCosts(1 << 20, (1 << 18,) * 10)
    many_calls = StepCosts(1 << 20, (1 << 18,) * 1000)
    heavy = StepCosts(1 << 20, (1 << 18,) * 10, weights=200 << 20)
    assert choices_by_rule(few, 72, cpu).micro_batch == 18
    assert choices_by_rule(many_calls, 72, cpu).micro_batch == 72
    assert choices_by_rule(heavy, 72, cpu).micro_batch > 18
    # One that leaves the cache anyway has nothing to lose; one that does not has no reason to.
    for costs in (few, many_calls, heavy):
        assert costs.seconds_an_image(18) < costs.seconds_an_image(9)


def test_a_step_is_weighed_by_its_schedule(model, images):
    step = SignTransform(model, 2, step_size=STEP, backend="fused").step(images)
    costs = step.costs
    assert costs.peak == step.memory.peak
    assert len(costs.instructions) == len(step.schedule.instructions)
    assert sum(costs.instructions) == step.memory.traffic
    weights = sum(w.numel() * 4 for n, w in model.named_parameters())
    assert 0 < costs.weights <= 2 * weights


def test_tune_is_checked(model):
    with pytest.raises(TypeError, match="tune must be True, False or a TuningPlan, got 'yes'"):
        SignTransform(model, tune="yes")


# Which inverted residuals run as one operation.


class Clock:
    """In place of `median_seconds`: of each pair of times the fused block's comes first."""

    def __init__(self, *pairs: tuple[float, float]) -> None:
        self.times = [t for pair in pairs for t in pair]

    def __call__(self, work, device) -> float:
        work()
        return self.times.pop(0)


@pytest.fixture
def eligible(monkeypatch):
    monkeypatch.setattr(tune, "block_runs_natively", lambda x: True)


def clock(monkeypatch, *pairs: tuple[float, float]) -> Clock:
    made = Clock(*pairs)
    monkeypatch.setattr(tune, "median_seconds", made)
    return made


def block(case: str = "MobileNetV2"):
    program, place = block_program(CASES[case])
    fused, origin = fuse_blocks(program.to(F32), (place,))
    return fused.ops[origin.index(place)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_a_block_that_agrees_and_is_faster_is_taken(monkeypatch, case, dtype):
    clock(monkeypatch, (1.0, 2.0), (2.0, 1.0), (1.0, 1.0))
    with torch.no_grad():
        found = [is_faster_fused(block(case), dtype, 16) for _ in range(3)]
    assert found == [True, False, False]


def wrong(monkeypatch, kernel) -> None:
    monkeypatch.setattr(inverted_residual, "inverted_residual_backward", kernel)


@pytest.mark.parametrize(("dtype", "off"), [(F32, 1.01), (F32, float("nan")), (torch.bfloat16, 2)])
def test_a_kernel_that_disagrees_is_not_used(monkeypatch, dtype, off):
    def kernel(g, packed, out, **options):
        inverted_residual_backward(g, packed, out, **options)
        out *= off

    wrong(monkeypatch, kernel)
    left = clock(monkeypatch, (1.0, 2.0))
    with (
        torch.no_grad(),
        pytest.warns(RuntimeWarning, match="8×5×7 runs .* its δ is"),
    ):
        assert not is_faster_fused(block("stride 2"), dtype, 2)
    assert left.times == [1.0, 2.0]  # it was not even timed


def test_no_gradient_at_all_is_no_disagreement(monkeypatch):
    dead = block("one activation")
    dead = replace(dead, project=dead.project.with_constants(torch.zeros_like))
    clock(monkeypatch, (1.0, 2.0))
    with torch.no_grad():
        assert is_faster_fused(dead, F32, 2)


def test_a_block_that_does_not_fit_is_not_fused(monkeypatch):
    def kernel(*arguments, **options):
        raise RuntimeError("inverted_residual: does not fit")

    wrong(monkeypatch, kernel)
    clock(monkeypatch, (1.0, 2.0))
    with torch.no_grad():
        assert not is_faster_fused(block(), F32, 2)


def test_a_kernel_that_fails_is_not_used_and_named(monkeypatch):
    def kernel(*arguments, **options):
        raise RuntimeError("CUDA launch failed: an illegal memory access")

    wrong(monkeypatch, kernel)
    clock(monkeypatch, (1.0, 2.0))
    with torch.no_grad(), pytest.warns(RuntimeWarning, match="convolution: CUDA launch failed"):
        assert not is_faster_fused(block(), F32, 2)


def test_other_errors_are_raised(monkeypatch):
    wrong(monkeypatch, None)
    with pytest.raises(TypeError), torch.no_grad():
        is_faster_fused(block(), F32, 2)


@pytest.mark.parametrize("case", CASES)
def test_an_isolated_block_has_the_blocks_delta(case):
    one = block(case)
    seed = torch.randn(one.shape)
    apart, fused = isolated_programs(one, seed)
    assert [op.output for op in apart.ops] == [1, 2, 3]
    assert len(fused.ops) == 1
    own = CASES[case].residual == "own"
    assert apart.ops[2].inputs == ((2, 0) if own else (2,))
    x = torch.randn(2, *one.in_shapes[0])
    torch.testing.assert_close(fused.pullback_of_ones(x), apart.pullback_of_ones(x))


def three_blocks() -> nn.Sequential:
    def expanded(kernel: int) -> list[nn.Module]:
        return [
            nn.Conv2d(8, 24, 1),
            nn.ReLU6(),
            nn.Conv2d(24, 24, kernel, padding=kernel // 2, groups=24),
            nn.ReLU6(),
            nn.Conv2d(24, 8, 1),
        ]

    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        *expanded(3),
        *expanded(5),
        *expanded(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 36, 2),
    ).eval()


@pytest.fixture
def block_images(torch_rng):
    return torch.rand(16, 3, 8, 8, generator=torch_rng)


def test_each_block_is_decided_by_itself(monkeypatch, eligible, block_images):
    program = SignTransform(three_blocks()).program(block_images)
    clock(monkeypatch, (1, 2), (2, 1), (1, 2))
    with torch.no_grad():
        assert measure_blocks(program, F32, block_images) == (3, 9)


def test_nothing_is_measured_where_there_is_no_kernel(monkeypatch, block_images):
    program = SignTransform(three_blocks()).program(block_images)
    monkeypatch.setattr(tune, "is_faster_fused", None)
    for dtype in (torch.float64, F32, torch.bfloat16):
        assert measure_blocks(program, dtype, block_images) == ()


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_a_tuned_transform_keeps_its_blocks(
    monkeypatch, eligible, block_images, precision, tmp_path
):
    seen = []

    def decide(block, dtype, count, *, tf32):
        seen.append((dtype, count, tf32))
        return len(seen) != 2

    monkeypatch.setattr(tune, "is_faster_fused", decide)
    options = {"step_size": 1.0, "backend": "fused", "precision": precision}
    sign = SignTransform(three_blocks(), 2, tune=True, **options)
    tuned = sign.transform(block_images)
    dtype = torch.bfloat16 if precision == "bfloat16" else F32
    assert seen == 3 * [(dtype, 16, precision == "tf32")]
    (chosen,) = sign.plan.choices.values()
    assert chosen.blocks == (3, 9)
    assert "; fused blocks: %4, %10" in str(sign.plan)
    sign.plan.save(tmp_path / "plan.json")
    again = TuningPlan.load(tmp_path / "plan.json")
    assert again == sign.plan
    other = SignTransform(sign._network, 2, tune=again, **options)
    assert torch.equal(other.transform(block_images), tuned)


def test_without_tune_there_are_no_blocks(monkeypatch, eligible, block_images):
    monkeypatch.setattr(tune, "is_faster_fused", None)
    step = SignTransform(three_blocks(), backend="fused").step(block_images)
    assert step.choices.blocks == ()
    assert not any(isinstance(op, InvertedResidual) for op in step.program.ops)
    for device in ("cpu", "cuda"):
        assert choices_by_rule(StepCosts(1 << 20), 64, torch.device(device)).blocks == ()


def test_a_file_from_before_blocks_is_read(tmp_path):
    plan = TuningPlan("a machine", {"8×3×32×32 float32": StepChoices(4, (1, 3), (9,))})
    content = plan.to_dict()
    assert TuningPlan.from_dict(content) == plan
    del content["choices"]["8×3×32×32 float32"]["blocks"]
    (tmp_path / "plan.json").write_text(json.dumps(content))
    old = TuningPlan.load(tmp_path / "plan.json")
    assert old.choices == {"8×3×32×32 float32": StepChoices(4, (1, 3))}
    assert "fused blocks" not in str(old)
    content["choices"]["8×3×32×32 float32"]["blocks"] = 7
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"plan\.json is not a tuning plan"):
        TuningPlan.load(tmp_path / "plan.json")


def test_a_plan_for_another_network_is_refused(block_images):
    plan = TuningPlan("a machine", {"16×3×8×8 float32": StepChoices(16, (), (2,))})
    sign = SignTransform(three_blocks(), 2, step_size=1.0, backend="fused", tune=plan)
    with pytest.raises(ValueError, match=r"place 2: .* end at: 3, 6, 9; .*tune=True measures"):
        sign.transform(block_images)
