"""Inverted residuals in one kernel on a GPU: δ of MobileNetV2 with all of them, and tuning."""

from __future__ import annotations

import pytest
import torch
from block_programs import CASES, block_program, mobilenet, program_of
from tensors import channels_last
from torch import Tensor, nn

from sign_ext import SignTransform
from sign_ext.compiler.ir.inverted_residual import blocks_of
from sign_ext.compiler.ir.program import Program
from sign_ext.engine.fused.step import Step, activation_dtype
from sign_ext.engine.fused.tuning_plan import StepChoices
from sign_ext.eval_state import computing
from sign_ext.ops.inverted_residual import block_runs_natively

PRECISIONS = ["float32", "tf32", "bfloat16"]
# The effect of the few signs that rounding decides, in small batches.
FLOOR = {"float32": 1e-3, "tf32": 1e-1, "bfloat16": 1e-1}


def network(count: int, device: str) -> tuple[nn.Module, Tensor]:
    model, images = mobilenet(torch.Generator().manual_seed(count), count)
    return model.to(device), channels_last(images.to(device))


def delta(
    model: nn.Module, program: Program, images: Tensor, precision: str, blocks: tuple[int, ...]
) -> Tensor:
    with computing(model, precision), torch.no_grad():
        dtype = activation_dtype(torch.float32, precision)
        count = len(images)
        choices = StepChoices(count, blocks=blocks)
        step = Step(program, dtype, images.device, count, choices, tf32=precision == "tf32")
        assert len(step.program.ops) == len(program.ops) - 2 * len(blocks)
        return step.delta(images)


def relative(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm())


def check(model: nn.Module, program: Program, images: Tensor, precision: str) -> None:
    """No further from the definition in float64 than the step without blocks."""
    wanted = program.to(torch.float64).pullback_of_ones(images.double())
    assert wanted.norm() > 0
    blocks = blocks_of(program)
    assert blocks
    ours = relative(delta(model, program, images, precision, blocks), wanted)
    apart = relative(delta(model, program, images, precision, ()), wanted)
    assert ours <= max(FLOOR[precision], 3 * apart), f"{ours:.2e}, {apart:.2e} apart"
    assert ours < 0.5


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("count", [1, 3, 65])
def test_mobilenet_gives_the_definitions_delta(count: int, precision: str) -> None:
    model, images = network(count, "cuda")
    assert block_runs_natively(images)
    check(model, program_of(model, images), images, precision)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CASES)
def test_one_block_gives_the_definitions_delta(case: str, precision: str) -> None:
    program, _ = block_program(CASES[case])
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(33, *program.image_shape, generator=generator).cuda()
    images = channels_last(images)
    check(nn.Identity(), program.to("cuda", torch.float32), images, precision)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_check_on_a_cpu(precision: str) -> None:
    model, images = network(3, "cpu")
    check(model, program_of(model, images), images, precision)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_call_gives_the_same_bits(precision: str) -> None:
    model, images = network(65, "cuda")
    program = program_of(model, images)
    blocks = blocks_of(program)
    first = delta(model, program, images, precision, blocks)
    for _ in range(3):
        assert torch.equal(delta(model, program, images, precision, blocks), first)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_tuning_mobilenet_prints_its_choices(precision: str) -> None:
    model, images = network(65, "cuda")
    options = {"step_size": 1e3, "backend": "fused", "precision": precision}
    sign = SignTransform(model, 2, tune=True, **options)
    tuned = sign.transform(images)
    print(sign.plan)
    (chosen,) = sign.plan.choices.values()
    assert set(chosen.blocks) <= set(blocks_of(sign.program(images)))
    assert f"65×3×32×32 {precision}: 65 images at a time" in str(sign.plan)
    assert torch.equal(SignTransform(model, 2, tune=sign.plan, **options).transform(images), tuned)
