"""Islands: PyTorch runs them, and autograd pulls their cotangents back."""

from __future__ import annotations

from torch import Tensor

from sign_ext.compiler.ir.island import Island
from sign_ext.compiler.schedule import Instruction
from sign_ext.engine.fused.bind.context import (
    BackwardKernel,
    BindContext,
    ForwardKernel,
    Slots,
    binds,
    binds_backward,
    prepares,
    to_channels_last,
)


@prepares(Island)
def weights(context: BindContext, place: int, op: Island) -> tuple[Tensor, ...]:
    """The constants in the dtypes in which they are used."""
    return op.prepared(context.dtype)


@binds(Island)
def forward(context: BindContext, i: Instruction, op: Island) -> ForwardKernel:
    """The value; autograd's graph is kept in the island's slot."""
    (slot,), constants = i.own, context.prepared[i.op]

    def run(s: Slots, images: int, *inputs: Tensor) -> Tensor:
        value, s[slot] = op.record(inputs, constants)
        return to_channels_last(value)

    return run


@binds_backward(Island)
def backward(context: BindContext, i: Instruction, op: Island) -> BackwardKernel:
    """The cotangent of one input. The first that is asked for computes all of them."""
    (slot,), constants, side = i.own, context.prepared[i.op], i.side

    def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
        if side == 0:
            s[slot] = list(op.pull_back(g, s[slot], constants))
        out = to_channels_last(s[slot][side])
        s[slot][side] = None
        return out if other is None else out + other

    return run
