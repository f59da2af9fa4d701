"""Positions in another order, by indices that lie on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from sign_ext.compiler.ir.gather import Gather
from sign_ext.compiler.schedule import Instruction
from sign_ext.engine.fused.bind.context import (
    BackwardKernel,
    BindContext,
    ForwardKernel,
    Slots,
    backward_by_torch,
    binds,
    binds_backward,
    prepares,
)


@prepares(Gather)
def indices(context: BindContext, place: int, op: Gather) -> tuple[Tensor, Tensor]:
    """Where each position comes from, and where its cotangent does."""
    return tuple(torch.tensor(each, device=context.device) for each in (op.places, op.back))  # type: ignore[return-value]


@binds(Gather)
def forward(context: BindContext, i: Instruction, op: Gather) -> ForwardKernel:
    """The positions in their new order."""
    index, _ = context.prepared[i.op]

    def run(s: Slots, images: int, x: Tensor) -> Tensor:
        return op.taken(x, index, op.shape)

    return run


@binds_backward(Gather)
def backward(context: BindContext, i: Instruction, op: Gather) -> BackwardKernel:
    """The cotangents in the old one."""
    _, index = context.prepared[i.op]
    return backward_by_torch(lambda s, g: op.taken(g, index, op.in_shapes[0]))
