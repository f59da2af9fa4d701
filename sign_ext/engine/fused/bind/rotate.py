"""Rotary embedding: a pass that copies the partners, and one for each of the two products."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sign_ext.compiler.ir.op import Op
from sign_ext.compiler.ir.rotate import Rotate
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


class Turn(NamedTuple):
    """own · x + other · x[partners], or its transpose, on rows of channels.

    Attributes:
        own: (H, W, C).
        other: (H, W, C).
        partners: (C,), int64.
    """

    own: Tensor
    other: Tensor
    partners: Tensor

    def of(self, x: Tensor) -> Tensor:
        """The sum.

        Args:
            x: (N, C, H, W), channels innermost.
        """
        rows = x.permute(0, 2, 3, 1)
        turned = rows.reshape(-1, len(self.partners)).index_select(1, self.partners)
        out = turned.view(rows.shape).mul_(self.other).addcmul_(rows, self.own)
        return out.permute(0, 3, 1, 2)


@prepares(Rotate)
def turns(context: BindContext, place: int, op: Rotate) -> tuple[Turn, Turn]:
    """Forward and backward, with what they read on the device."""
    for earlier in context.prepared:
        if _is_same(context.program.ops[earlier], op):
            found: tuple[Turn, Turn] = context.prepared[earlier]
            return found
    own, other = (
        each.to(context.device, context.dtype).permute(1, 2, 0).contiguous()
        for each in (op.own, op.other)
    )
    partners, back = (torch.tensor(each, device=context.device) for each in (op.partners, op.back))
    # (g · other)[back] is g[back] · other[back].
    return Turn(own, other, partners), Turn(own, other.index_select(2, back), back)


def _is_same(earlier: Op, op: Rotate) -> bool:
    """Whether an operation turns by the same angles, as those of all blocks of a network do.

    Looked at on a CPU, where what all blocks share stays in the cache.
    """
    if not isinstance(earlier, Rotate) or earlier.partners != op.partners:
        return False
    pairs = ((earlier.own, op.own), (earlier.other, op.other))
    on_cpu = all(type(each) is Tensor and each.device.type == "cpu" for each in pairs[0])
    return on_cpu and all(torch.equal(first, second) for first, second in pairs)


@binds(Rotate)
def forward(context: BindContext, i: Instruction, op: Rotate) -> ForwardKernel:
    """Each element and its partner."""
    turn: Turn = context.prepared[i.op][0]
    return lambda s, images, x: turn.of(x)


@binds_backward(Rotate)
def backward(context: BindContext, i: Instruction, op: Rotate) -> BackwardKernel:
    """Each cotangent and that of the channel whose partner this is."""
    turn: Turn = context.prepared[i.op][1]

    def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
        out = turn.of(g)
        return out if other is None else out.add_(other)

    return run
