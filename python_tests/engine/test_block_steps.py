"""Steps whose inverted residuals run as one operation each, through the operator's reference."""

from __future__ import annotations

import pytest
import torch
from block_programs import CASES, Case, block_program, mobilenet, program_of
from networks import step_for
from tensors import channels_last
from torch import Tensor

from sign_ext import SignTransform
from sign_ext.compiler.ir.inverted_residual import InvertedResidual, blocks_of, fuse_blocks
from sign_ext.compiler.ir.program import Program
from sign_ext.compiler.memory_plan import plan_memory
from sign_ext.compiler.schedule import schedule
from sign_ext.engine.fused.products.torch import TorchConvolution
from sign_ext.engine.fused.step import Step
from sign_ext.engine.fused.tuning_plan import StepChoices, TuningPlan, tuning_key
from sign_ext.ops.inverted_residual import PackedBlock

CPU = torch.device("cpu")
FLOOR = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.bfloat16: 1e-1,
}  # the last: a few signs in small images


def relative(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted).norm() / wanted.norm())


def step_of(program: Program, dtype: torch.dtype, images: int, blocks=(), by_library=()) -> Step:
    with torch.no_grad():
        return Step(program, dtype, CPU, images, StepChoices(images, by_library, blocks))


def check(program: Program, images: Tensor, dtype: torch.dtype) -> None:
    """δ with all blocks fused against the definition, no further off than with none."""
    wanted = program.to(torch.float64).pullback_of_ones(images.double())
    assert wanted.norm() > 0
    given = images.to(torch.float64 if dtype == torch.float64 else torch.float32)
    given = channels_last(given)
    fused = step_of(program, dtype, len(images), blocks_of(program))
    assert any(isinstance(op, InvertedResidual) for op in fused.program.ops)
    with torch.no_grad():
        ours = relative(fused.delta(given), wanted)
        apart = relative(step_of(program, dtype, len(images)).delta(given), wanted)
    assert ours <= max(FLOOR[dtype], 2 * apart), f"{ours:.2e}, {apart:.2e} apart"
    assert ours < 0.5


@pytest.mark.parametrize("dtype", FLOOR, ids=str)
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_one_block_gives_the_definitions_delta(case, images, dtype, torch_rng):
    program, _ = block_program(CASES[case])
    given = torch.randn(images, *program.image_shape, generator=torch_rng, dtype=torch.float64)
    check(program, given, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", FLOOR, ids=str)
def test_mobilenet_gives_the_definitions_delta(dtype):
    model, images = mobilenet(torch.Generator().manual_seed(4), 3)
    check(program_of(model.double(), images.double()), images.double(), dtype)


def plans(program: Program, element_size: int = 4):
    fused, _ = fuse_blocks(program, blocks_of(program))
    return schedule(program, element_size), schedule(fused, element_size)


@pytest.fixture(scope="module")
def network() -> Program:
    return program_of(*mobilenet(torch.Generator().manual_seed(0)))


def test_expanded_values_have_no_slots(network):
    apart, fused = plans(network)
    sizes = [{s.bytes for s in each.slots if "mask" not in s.kind} for each in (apart, fused)]
    # 96 × 16×16, 144 × 8×8, 96 × 8×8 and 144 × 4×4 floats; later ones are as large as other values.
    expanded = {98_304, 36_864, 24_576, 9_216}
    assert expanded <= sizes[0]
    assert not expanded & sizes[1]
    assert plan_memory(fused).peak < plan_memory(apart).peak
    assert plan_memory(fused).traffic < plan_memory(apart).traffic / 2


def test_two_operators_a_block_and_direction_are_saved_and_no_sum_is_scheduled(network):
    apart, fused = plans(network)
    saved = len(apart.instructions) - len(fused.instructions)
    assert saved == 4 * len(blocks_of(network)) == 64
    assert {i.kind for i in fused.instructions} == {"forward", "seed", "backward"}
    backward = [i for i in fused.instructions if i.kind == "backward"]
    skips = [i for i in backward if i.other is not None]
    assert len(skips) == 10
    # The cotangent that was passed through to the residual is the one that the block takes.
    assert all(i.other == i.reads[0] and not i.in_place for i in skips)


@pytest.mark.parametrize("case", CASES)
def test_bits_are_written_once_read_once_and_freed(case):
    program, _ = block_program(CASES[case])
    _, fused = plans(program)
    freed = [slot for i in fused.instructions for slot in i.frees]
    taken = [i.overwritten for i in fused.instructions if i.in_place]
    assert len(freed) == len(set(freed))
    assert {*freed, *taken, 0, fused.delta} == set(range(len(fused.slots)))
    forward = next((i for i in fused.instructions if i.own), None)
    if forward is None:
        assert case == "linear"
        return
    readers = [i for i in fused.instructions if i.own == forward.own]
    assert [i.kind for i in readers] == ["forward", "backward"]
    assert set(forward.own) <= set(readers[1].frees)


@pytest.mark.parametrize("case", CASES)
def test_a_step_frees_what_the_plan_says(case, torch_rng):
    """Instruction by instruction, the tensors alive are the plan's, to the byte."""
    program, place = block_program(CASES[case])
    step = step_of(program, torch.float32, 2, (place,))
    slots: list[Tensor | None] = [None] * len(step.schedule.slots)
    slots[0] = channels_last(torch.randn(2, *program.image_shape))
    alive = 0
    for instruction, run in zip(step.schedule.instructions, step._runs, strict=True):
        alive += sum(step.schedule.slots[s].bytes for s in instruction.slots_written())
        alive -= sum(step.schedule.slots[s].bytes for s in instruction.frees)
        with torch.no_grad():
            run(slots)
        held = {t.data_ptr(): t.nbytes for t in slots[1:] if t is not None}
        assert sum(held.values()) == 2 * alive


def precisions(step: Step) -> set[str]:
    """Those that the constants of blocks are prepared for."""
    made = step.prepared.values()
    return {packed.precision for packed in made if isinstance(packed, PackedBlock)}


def test_places_are_those_of_the_unfused_program(network):
    """The last 1×1 convolution is left to the library, by the place that it has unfused."""
    blocks = blocks_of(network)
    for by_library, left in (((), False), ((52,), True), ((20,), False)):
        step = step_of(network, torch.bfloat16, 2, blocks, by_library)
        last = step.prepared[20]
        assert isinstance(last, TorchConvolution)
        assert (last.padding is None) == left
    blocks = {i for i, made in step.prepared.items() if isinstance(made, PackedBlock)}
    assert blocks == set(range(4, 20))
    assert set(step.prepared) - blocks == {1, 3, 20}


@pytest.mark.parametrize("tf32", [False, True])
def test_constants_are_prepared_once_and_for_the_precision(network, tf32):
    for dtype, precision in (
        (torch.float32, "tf32" if tf32 else "float32"),
        (torch.bfloat16, "bfloat16"),
    ):
        with torch.no_grad():
            choices = StepChoices(2, blocks=blocks_of(network))
            step = Step(network, dtype, CPU, 2, choices, tf32=tf32)
        assert precisions(step) == {precision}


def test_a_place_without_a_block_is_refused(network):
    with pytest.raises(ValueError, match="no block can be fused at place 5"):
        step_of(network, torch.float32, 2, (5,))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "micro_batch"), [("float32", 2), ("tf32", 5), ("bfloat16", 2)]
)
def test_a_walk_is_the_same_with_blocks(precision, micro_batch):
    model, images = mobilenet(torch.Generator().manual_seed(6), 5)
    program = program_of(model, images)
    blocks = blocks_of(program)
    step_size = step_for(program.pullback_of_ones(images))
    options = {"step_size": step_size, "backend": "fused", "precision": precision}
    plain = SignTransform(model, 2, **options)
    plan = TuningPlan(
        "by hand", {tuning_key(images, precision): StepChoices(micro_batch, (52,), blocks)}
    )
    sign = SignTransform(model, 2, tune=plan, **options)
    step = sign.step(images)
    assert sum(isinstance(op, InvertedResidual) for op in step.program.ops) == 16
    assert precisions(step) == {precision}
    got, wanted = sign.transform(images), plain.transform(images)
    moved = (wanted - images).norm()
    assert moved > 1
    assert (got - wanted).norm() <= (0.3 if precision == "bfloat16" else 1e-3) * moved
    assert "16 inverted residual" in str(sign.explain(images))


def test_one_block_walks_at_the_input_with_momentum(torch_rng):
    """Where the first convolution is not the last instruction."""
    model, images = mobilenet(torch_rng, 2)
    program = program_of(model, images)
    step_size = step_for(program.pullback_of_ones(images))
    options = {"step_size": step_size, "backend": "fused", "linearize_at": "input"}
    options["momentum"] = 0.5
    plain = SignTransform(model, 3, **options)
    blocks = blocks_of(program)[::3]
    plan = TuningPlan("by hand", {tuning_key(images, "float32"): StepChoices(2, (), blocks)})
    got = SignTransform(model, 3, tune=plan, **options).transform(images)
    wanted = plain.transform(images)
    assert (wanted - images).norm() > 1
    assert (got - wanted).norm() <= 1e-3 * (wanted - images).norm()


def test_the_same_call_gives_the_same_bits(torch_rng):
    program, place = block_program(Case(residual="own"))
    images = torch.randn(3, *program.image_shape, generator=torch_rng)
    images = channels_last(images)
    with torch.no_grad():
        deltas = [step_of(program, torch.float32, 3, (place,)).delta(images) for _ in range(2)]
    assert torch.equal(*deltas)
