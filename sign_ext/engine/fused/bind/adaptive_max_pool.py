"""Adaptive maximum pooling by PyTorch's operators, with its positions in half as many bits."""

from __future__ import annotations

from torch import Tensor

from sign_ext.compiler.ir.adaptive_max_pool import AdaptiveMaximum
from sign_ext.compiler.schedule import Instruction
from sign_ext.engine.fused.bind.context import (
    BackwardKernel,
    BindContext,
    ForwardKernel,
    Slots,
    backward_by_torch,
    binds,
    binds_backward,
    to_channels_last,
)


@binds(AdaptiveMaximum)
def forward(context: BindContext, i: Instruction, op: AdaptiveMaximum) -> ForwardKernel:
    """The maxima; their positions go to the slot of the operation's own residue."""
    (slot,) = i.own

    def run(s: Slots, images: int, x: Tensor) -> Tensor:
        value, s[slot] = op.linear(x)
        return to_channels_last(value)

    return run


@binds_backward(AdaptiveMaximum)
def backward(context: BindContext, i: Instruction, op: AdaptiveMaximum) -> BackwardKernel:
    """From the positions."""
    (slot,) = i.own
    return backward_by_torch(lambda s, g: op.linear_vjp(g, s[slot])[0])
