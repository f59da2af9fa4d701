"""Steps whose inverted residuals run on the emulated device: weights, arrays, kernel text."""

from __future__ import annotations

import pytest
import torch
from block_programs import CASES, block_program, mobilenet, program_of
from emulated_blocks import Device, emulated_blocks
from tensors import channels_last

from sign_ext import SignTransform
from sign_ext.compiler.ir.inverted_residual import blocks_of
from sign_ext.engine.fused.step import Step
from sign_ext.engine.fused.tune import measure_blocks
from sign_ext.engine.fused.tuning_plan import StepChoices, TuningPlan, tuning_key
from sign_ext.ops.native import NATIVE

pytestmark = pytest.mark.skipif(not NATIVE.loaded, reason="the operators' schemas are native")

DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
# Against the reference: sums in another order (and TF32's products), and the effect of the few bits
# that they flip on images this small. A wrong connection is off by 1.
CLOSE = {"float32": 1e-3, "tf32": 0.2, "bfloat16": 0.2}


def step_of(program, images, precision, blocks):
    tf32 = precision == "tf32"
    choices = StepChoices(len(images), blocks=blocks)
    with torch.no_grad():
        return Step(program, DTYPES[precision], images.device, len(images), choices, tf32=tf32)


def distances(program, images, precision, device):
    """How far δ is from the reference's, and both from the definition in float64."""
    step = step_of(program, images, precision, blocks_of(program))
    with torch.no_grad():
        with emulated_blocks(device):
            kernel = step.delta(images).double()
        reference = step.delta(images).double()
        wanted = program.to(torch.float64).pullback_of_ones(images.double())
    norm = wanted.norm()
    return [
        float((a - b).norm() / norm)
        for a, b in ((kernel, reference), (kernel, wanted), (reference, wanted))
    ]


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_one_block(case, precision, torch_rng, seed):
    program, _ = block_program(CASES[case])
    images = torch.randn(3, *program.image_shape, generator=torch_rng)
    images = channels_last(images)
    device = Device(seed, processors=1)
    between, kernel, reference = distances(program, images, precision, device)
    assert device.launches == 2
    assert between < CLOSE[precision]
    assert kernel < max(CLOSE[precision], 2 * reference)


def test_mobilenet(seed):
    model, images = mobilenet(torch.Generator().manual_seed(seed), 2)
    program = program_of(model, images)
    device = Device(seed)
    images = channels_last(images)
    between, kernel, reference = distances(program, images, "bfloat16", device)
    assert device.launches == 2 * len(blocks_of(program))
    assert kernel < 1.5 * reference < 0.5
    assert between < 1.5 * reference


def test_transforming_with_blocks(seed, torch_rng):
    """As a user would: a tuning plan with blocks, two steps, a clamp."""
    model, images = mobilenet(torch_rng, 2)
    program = program_of(model, images)
    blocks = blocks_of(program)
    step_size = 20 / float(program.pullback_of_ones(images).abs().max())
    options = {"step_size": step_size, "backend": "fused", "clamp": (0, 255)}
    expected = SignTransform(model, 2, **options).transform(images)
    plan = TuningPlan(choices={tuning_key(images, "float32"): StepChoices(2, blocks=blocks[:3])})
    device = Device(seed)
    with emulated_blocks(device):
        moved = SignTransform(model, 2, tune=plan, **options).transform(images)
    assert device.launches == 2 * 2 * 3
    assert (expected - images).norm() > 1
    difference = (moved - expected).norm() / (expected - images).norm()
    assert difference < 2e-2


def test_tuning_leaves_out_blocks_that_do_not_fit(seed, monkeypatch):
    """A device with little shared memory refuses blocks, which then run one by one."""
    monkeypatch.setattr("sign_ext.engine.fused.tune.block_runs_natively", lambda x: True)
    monkeypatch.setattr("sign_ext.engine.fused.tune.median_seconds", lambda work, device: 0.0)
    program, _ = block_program(CASES["MobileNetV2"])
    images = torch.zeros(1, *program.image_shape)
    with emulated_blocks(Device(seed, shared=1024)):
        assert measure_blocks(program, torch.float32, images) == ()
    order = iter([1.0, 2.0])
    monkeypatch.setattr(
        "sign_ext.engine.fused.tune.median_seconds", lambda work, device: next(order)
    )
    with emulated_blocks(Device(seed)):
        assert measure_blocks(program, torch.float32, images) == blocks_of(program)
