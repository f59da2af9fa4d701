"""Norms by groups and over channels, by PyTorch's operators, which keep a number or two for each."""

from __future__ import annotations

from torch import Tensor

from sign_ext.compiler.ir.channel_norm import ChannelNorm
from sign_ext.compiler.ir.group_norm import GroupNorm
from sign_ext.compiler.ir.rms_norm import RMSNorm
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


@binds(GroupNorm, ChannelNorm, RMSNorm)
def forward(
    context: BindContext, i: Instruction, op: GroupNorm | ChannelNorm | RMSNorm
) -> ForwardKernel:
    """The normalised value; its statistics go to the slot of the operation's own residue."""
    (slot,) = i.own

    def run(s: Slots, images: int, x: Tensor) -> Tensor:
        value, (_, *s[slot]) = op.linear(x)
        return to_channels_last(value)

    return run


@binds_backward(GroupNorm, ChannelNorm, RMSNorm)
def backward(
    context: BindContext, i: Instruction, op: GroupNorm | ChannelNorm | RMSNorm
) -> BackwardKernel:
    """From the statistics, and the input, which the schedule has kept."""
    (slot,), x = i.own, i.reads[1]
    return backward_by_torch(lambda s, g: op.linear_vjp(g, (s[x], *s[slot]))[0])
