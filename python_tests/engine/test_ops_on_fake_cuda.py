"""Every kind of operation bound for CUDA: what a captured graph of a step would hold of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

import pytest
import torch
from fake_cuda import (
    CUDA,
    NotForCapture,
    constants_without_values,
    fake_cuda,
    looked_at,
    program_on_cuda,
)
from op_examples import EXAMPLES, example
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from sign_ext.compiler import ir
from sign_ext.compiler.build import compile_phi
from sign_ext.compiler.ir.inverted_residual import blocks_of
from sign_ext.compiler.ir.op import Op
from sign_ext.compiler.ir.program import Program
from sign_ext.engine.fused.step import Step
from sign_ext.engine.fused.tuning_plan import StepChoices
from sign_ext.errors import BackendError
from sign_ext.eval_state import computing
from sign_ext.ops.native import NATIVE
from sign_ext.source_layer import Phi, SourceLayer

IMAGES = 5
CLASSIFIER = SourceLayer("classifier", "input", "Linear")
pytestmark = pytest.mark.skipif(not NATIVE.loaded, reason="the operators' schemas are native")


def kinds() -> set[type[Op]]:
    """All operations of the package that a program may hold."""
    for module in iter_modules(ir.__path__):
        import_module(f"{ir.__name__}.{module.name}")

    def below(kind: type[Op]) -> Iterator[type[Op]]:
        for each in kind.__subclasses__():
            yield each
            yield from below(each)

    return {
        kind
        for kind in below(Op)
        if kind.__module__.startswith(ir.__name__) and not inspect.isabstract(kind)
    }


@cache
def compiled(name: str) -> Program:
    model, images = example(name)
    with computing(model), torch.no_grad():
        return compile_phi(Phi(model, CLASSIFIER), images[:1])


def bound(program: Program, dtype: torch.dtype, blocks: tuple[int, ...] = ()) -> Step:
    """A step on the fake device; inside `fake_cuda`."""
    choices = StepChoices(IMAGES, blocks=blocks)
    with torch.no_grad(), constants_without_values():
        return Step(program_on_cuda(program), dtype, CUDA, IMAGES, choices)


def run(step: Step, images: Tensor) -> None:
    """All instructions; each leaves its value on the device, with the channels innermost."""
    slots = [None] * len(step.schedule.slots)
    slots[0] = images
    with torch.no_grad():
        for instruction, work in zip(step.schedule.instructions, step._runs, strict=True):
            work(slots)
            value = slots[instruction.out]
            if not isinstance(value, Tensor):  # it was freed at once
                continue
            assert value.device == CUDA, instruction
            assert len(value) == IMAGES, instruction
            layout = torch.channels_last if value.dim() == 4 else torch.contiguous_format
            assert value.is_contiguous(memory_format=layout), (instruction, value.stride())
            of = step.schedule.slots[instruction.out].of
            assert value.shape[1:] == step.program.shape_of(of), instruction
    delta = slots[step.schedule.delta]
    assert delta.shape == images.shape
    assert delta.dtype == step.dtype


def fake_images(dtype: torch.dtype = torch.float32) -> Tensor:
    images = torch.empty(IMAGES, 3, 8, 12, dtype=dtype, device=CUDA)
    return images.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_step_can_be_captured(name: str) -> None:
    program = compiled(name)
    with fake_cuda():
        for dtype in (torch.float32, torch.bfloat16):
            step = bound(program, dtype)
            _, names = looked_at(lambda step=step: run(step, fake_images()))
            assert names


def test_a_fused_block_can_be_captured() -> None:
    program = compiled("block")
    with fake_cuda():
        step = bound(program, torch.bfloat16, blocks_of(program))
        _, names = looked_at(lambda: run(step, fake_images()))
    assert "sign_ext::inverted_residual" in names
    assert "sign_ext::inverted_residual_backward" in names


def test_every_kind_of_operation_has_an_example() -> None:
    found = {type(op) for name in EXAMPLES for op in compiled(name).ops}
    block = compiled("block")
    with fake_cuda():
        found |= {type(op) for op in bound(block, torch.float32, blocks_of(block)).program.ops}
    missing = sorted(kind.__name__ for kind in kinds() - found)
    assert not missing, (
        f"no example's program has {', '.join(missing)}: add a network to EXAMPLES in "
        "python_tests/engine/op_examples.py that compiles to each"
    )


@pytest.mark.parametrize(
    ("work", "why"),
    [
        (lambda x: x.sum().item(), "reads a value back"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x[x > 0], "nonzero"),
        (lambda x: x.cpu(), "copies a tensor to the host"),
        (lambda x: x + torch.ones(12).to(CUDA), "reads a tensor of the host"),
        (lambda x: torch.rand_like(x), "random"),
        (lambda x: torch.mkldnn_max_pool2d(x, 2), "CPU only"),
    ],
)
def test_what_no_graph_may_hold_is_found(work, why) -> None:
    refusals = (NotForCapture, BackendError, DynamicOutputShapeException)
    with fake_cuda(), pytest.raises(refusals, match=why):
        looked_at(lambda: work(fake_images()))
