"""2-d operations on volumes and signals: their own functions, on the same memory cut otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from sign_ext.compiler.ir.framewise import Framewise, regrouped
from sign_ext.compiler.schedule import Instruction
from sign_ext.engine.fused.bind.context import (
    BackwardKernel,
    BindContext,
    ForwardKernel,
    Slots,
    binds,
    binds_backward,
    prepares,
)


def _for_frames(context: BindContext, op: Framewise) -> BindContext:
    """The context of the inner operation, for which every frame is an image."""
    return replace(context, micro_batch=context.micro_batch * op.frames)


@prepares(Framewise)
def constants(context: BindContext, place: int, op: Framewise) -> Any:
    """The inner operation's."""
    return prepares.of(op.inner)(_for_frames(context, op), place, op.inner)


@binds(Framewise)
def forward(context: BindContext, i: Instruction, op: Framewise) -> ForwardKernel:
    """The inner operation on all frames at once."""
    inner = op.inner
    kernel: ForwardKernel = binds.of(inner)(_for_frames(context, op), i, inner)

    def run(s: Slots, images: int, *inputs: Tensor) -> Tensor:
        cut = [regrouped(x, shape) for x, shape in zip(inputs, inner.in_shapes, strict=True)]
        return regrouped(kernel(s, images * op.frames, *cut), op.shape)

    return run


@binds_backward(Framewise)
def backward(context: BindContext, i: Instruction, op: Framewise) -> BackwardKernel:
    """The inner operation's, on all frames at once."""
    inner, shape = op.inner, op.inner.in_shapes[i.side]
    kernel: BackwardKernel = binds_backward.of(inner)(_for_frames(context, op), i, inner)

    def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
        cut = None if other is None else regrouped(other, shape)
        return regrouped(kernel(s, regrouped(g, inner.shape), cut), op.in_shapes[i.side])

    return run
