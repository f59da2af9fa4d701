"""Measures a compiled step's choices on this machine: micro-batch, algorithms, fused blocks."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from sign_ext.compiler.ir.inverted_residual import InvertedResidual, blocks_of, fuse_blocks
from sign_ext.compiler.ir.program import Program
from sign_ext.engine.agreement import relative_distance
from sign_ext.engine.fused.step import Step
from sign_ext.engine.fused.tuning_plan import StepChoices
from sign_ext.engine.graphed import record_cuda_graph
from sign_ext.engine.timing import clock
from sign_ext.ops.inverted_residual import block_runs_natively

ROUNDS = 5
REPLAYS = 20  # a round on CUDA: the wait for the device would hide the time of one small kernel
# A fused block whose δ is further than this from that of its three convolutions is wrong. Rounding
# flips the signs of a share of the pre-activations of about its own size, and δ is off by the
# square root of that share: 3e-4, 3e-2 and 5e-2 in the last three precisions.
BLOCK_TOLERANCE = {"float64": 1e-10, "float32": 1e-3, "tf32": 6e-2, "bfloat16": 1e-1}
DOES_NOT_FIT = "does not fit"  # in the kernel's error for a block that is too large for the device


def measure_choices(program: Program, dtype: torch.dtype, images: Tensor) -> StepChoices:
    """The fastest micro-batch, then for each stride-1 convolution the faster input-backward.

    Args:
        program: the network.
        dtype: of activations.
        images: a batch, (N, C, H, W), channels innermost; nothing in it is changed.
    """
    micro_batch = _fastest_micro_batch(program, dtype, images)
    flexible = [i for i, op in enumerate(program.ops) if op.may_be_left_to_library]
    device, count = images.device, len(images)
    by_rule = Step(program, dtype, device, count, StepChoices(micro_batch))
    by_library = Step(program, dtype, device, count, StepChoices(micro_batch, tuple(flexible)))

    def backward_seconds(step: Step, i: int, g: Tensor) -> float:
        return median_seconds(lambda: step.prepared[i].backward(g, None), device)

    left_to_library = []
    for i in flexible:
        g = torch.randn((micro_batch, *program.ops[i].shape), device=device).to(dtype)
        g = g.to(memory_format=torch.channels_last)
        by_rule_seconds = backward_seconds(by_rule, i, g)
        if backward_seconds(by_library, i, g) < by_rule_seconds:
            left_to_library.append(i)
    return StepChoices(micro_batch, tuple(left_to_library))


def _fastest_micro_batch(program: Program, dtype: torch.dtype, images: Tensor) -> int:
    """On a CPU the fastest of a few sizes near the fixed rule's; elsewhere the rule's."""
    device, count = images.device, len(images)
    rule = Step(program, dtype, device, count).choices
    sizes = [rule.micro_batch]
    if device.type == "cpu":
        others = (rule.micro_batch // 2, rule.micro_batch * 2, rule.micro_batch * 4, count)
        sizes += sorted({min(size, count) for size in others if size} - {rule.micro_batch})

    def run_in_parts(step: Step) -> None:
        for part in images.split(step.micro_batch):
            step.delta(part)

    times = {}
    for size in sizes:
        step = Step(program, dtype, device, count, StepChoices(size))
        times[size] = median_seconds(lambda step=step: run_in_parts(step), device)  # type: ignore[misc]
    return min(sizes, key=times.__getitem__)


def measure_blocks(
    program: Program, dtype: torch.dtype, images: Tensor, *, tf32: bool = False
) -> tuple[int, ...]:
    """The places of the blocks that run faster as one operation; none where there is no kernel.

    Args:
        program: the network.
        dtype: of activations.
        images: a batch, (N, C, H, W); only its size and its device matter.
        tf32: whether float32 products are taken in TF32.
    """
    if not block_runs_natively(images[:1].to(dtype)):
        return ()
    chosen = []
    for place in blocks_of(program):
        fused, origin = fuse_blocks(program, (place,))
        block = fused.ops[origin.index(place)]
        assert isinstance(block, InvertedResidual)
        if is_faster_fused(block, dtype, len(images), tf32=tf32):
            chosen.append(place)
    return tuple(chosen)


def is_faster_fused(
    block: InvertedResidual, dtype: torch.dtype, images: int, *, tf32: bool = False
) -> bool:
    """Whether a block is faster as one operation, and gives the δ of its three convolutions.

    A block that does not fit the device is not. One whose kernel fails, or whose δ differs, is not
    either, and a RuntimeWarning says so.

    Args:
        block: the operation.
        dtype: of activations.
        images: in a batch.
        tf32: whether float32 products are taken in TF32.
    """
    device = block.expand.weight.device
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(
        (images, *block.in_shapes[0]), generator=generator, dtype=torch.float32, device=device
    )
    x = x.to(torch.float64 if dtype == torch.float64 else torch.float32)
    x = x.to(memory_format=torch.channels_last)
    seed = torch.randn(block.shape, generator=generator, dtype=torch.float32, device=device).to(
        block.expand.weight
    )
    precision = "tf32" if tf32 and dtype == torch.float32 else str(dtype).removeprefix("torch.")
    try:
        apart, fused = (
            Step(program, dtype, device, images, StepChoices(images), tf32=tf32)
            for program in isolated_programs(block, seed)
        )
        off = relative_distance(fused.delta(x), apart.delta(x))
        if not off <= BLOCK_TOLERANCE[precision]:
            _warn_not_fused(block, f"its δ is {off:.1e} from that of its convolutions")
            return False
        times = [median_seconds(lambda step=step: step.delta(x), device) for step in (fused, apart)]  # type: ignore[misc]
    except RuntimeError as error:
        if DOES_NOT_FIT not in str(error):
            _warn_not_fused(block, str(error).strip().splitlines()[0])
        return False
    return times[0] < times[1]


def isolated_programs(block: InvertedResidual, seed: Tensor) -> tuple[Program, Program]:
    """A block as two programs of its own: three convolutions, and one operation.

    A residual that is not the block's input is left out; it costs both the same.

    Args:
        block: the operation.
        seed: the cotangent of its value, of one image.
    """
    inputs = (0, 0) if block.inputs[1:] == block.inputs[:1] else (0,)
    count = len(inputs)
    expand = replace(block.expand, inputs=(0,), output=1)
    depthwise = replace(block.depthwise, inputs=(1,), output=2)
    project = replace(
        block.project,
        inputs=(2, 0)[:count],
        in_shapes=block.project.in_shapes[:count],
        output=3,
    )
    fused = replace(
        block, inputs=inputs, in_shapes=block.in_shapes[:count], output=1, project=project
    )
    shape = block.in_shapes[0]
    apart = Program(image_shape=shape, ops=(expand, depthwise, project), seed=seed)
    return apart, replace(apart, ops=(fused,))


def median_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median time of a call as the engine makes it: on CUDA replayed from a graph.

    Args:
        work: what to time; on CUDA it must not wait for the device.
        device: where it runs.

    Raises:
        BackendError: it cannot be captured.
    """
    on_cuda = device.type == "cuda"
    run = record_cuda_graph(work, device) if on_cuda else work
    run()
    return statistics.median(clock(run, REPLAYS if on_cuda else 1, device) for _ in range(ROUNDS))


def _warn_not_fused(block: InvertedResidual, why: str) -> None:
    c, height, width = block.in_shapes[0]
    warnings.warn(
        f"the {block} of {c}×{height}×{width} runs convolution by convolution: {why}",
        RuntimeWarning,
        stacklevel=2,
    )
