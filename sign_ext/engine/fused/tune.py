"""Measure a compiled step's choices on this machine."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from sign_ext.compiler.ir.dense import Convolution
from sign_ext.compiler.ir.program import Program
from sign_ext.engine.fused.products.torch import transposed_padding
from sign_ext.engine.fused.step import Step
from sign_ext.engine.fused.tuning_plan import Choices
from sign_ext.engine.graphed import record_cuda_graph
from sign_ext.engine.timing import clock

ROUNDS = 5
REPLAYS = 20  # a round on CUDA: single small kernels would drown in the cost of waiting for them


def seconds(work: Callable[[], object], device: torch.device) -> float:
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


def measured_choices(program: Program, dtype: torch.dtype, images: Tensor) -> Choices:
    """The fastest micro-batch, then for each stride-1 convolution the faster input-backward.

    Args:
        program: the network.
        dtype: of activations.
        images: a batch, (N, C, H, W), channels innermost; nothing in it is changed.
    """
    device, count = images.device, len(images)
    rule = Step(program, dtype, device, count).choices
    sizes = [rule.micro_batch]
    if device.type == "cpu":
        wanted = (rule.micro_batch // 2, rule.micro_batch * 2, rule.micro_batch * 4, count)
        sizes += sorted({min(size, count) for size in wanted if size} - {rule.micro_batch})

    def pass_over(step: Step) -> None:
        for part in images.split(step.micro_batch):
            step.delta(part)

    times = {}
    for size in sizes:
        step = Step(program, dtype, device, count, Choices(size))
        times[size] = seconds(lambda step=step: pass_over(step), device)  # type: ignore[misc]
    best = min(sizes, key=times.__getitem__)
    flexible = [
        i
        for i, op in enumerate(program.ops)
        if isinstance(op, Convolution)
        and not op.is_depthwise
        and transposed_padding(op) is not None
    ]
    by_rule = Step(program, dtype, device, count, Choices(best))
    by_library = Step(program, dtype, device, count, Choices(best, tuple(flexible)))
    chosen = []
    for i in flexible:
        g = torch.randn((best, *program.ops[i].shape), device=device).to(dtype)
        g = g.to(memory_format=torch.channels_last)
        ours = seconds(lambda i=i, g=g: by_rule.dense[i].backward(g, None), device)  # type: ignore[misc]
        theirs = seconds(lambda i=i, g=g: by_library.dense[i].backward(g, None), device)  # type: ignore[misc]
        if theirs < ours:
            chosen.append(i)
    return Choices(best, tuple(chosen))
