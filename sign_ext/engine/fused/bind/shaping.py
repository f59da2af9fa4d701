"""Concatenation, and every operation that PyTorch's own operators compute as they are."""

from __future__ import annotations

import torch
from torch import Tensor

from sign_ext.compiler.ir.op import Op
from sign_ext.compiler.ir.shaping import Concat
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
from sign_ext.ops.layout import share_memory


@binds(Op)
def forward(context: BindContext, i: Instruction, op: Op) -> ForwardKernel:
    """The operation's value by PyTorch, in memory of its own unless it takes over the input's."""

    def run(s: Slots, images: int, *inputs: Tensor) -> Tensor:
        value = to_channels_last(op.linear(*inputs)[0])
        if not i.in_place and any(share_memory(value, x) for x in inputs):
            return value.clone()
        return value

    return run


@binds_backward(Op)
def backward(context: BindContext, i: Instruction, op: Op) -> BackwardKernel:
    """The cotangent of one input of a linear operation, which keeps nothing.

    It is in memory of its own: what is written to it in place must not change what others read.
    """

    def pull_back(s: Slots, g: Tensor) -> Tensor:
        out = to_channels_last(op.linear_vjp(g, None)[i.side])
        return out.clone() if share_memory(out, g) else out

    return backward_by_torch(pull_back)


@binds_backward(Concat)
def concat_backward(context: BindContext, i: Instruction, op: Concat) -> BackwardKernel:
    """The part of the cotangent that belongs to one input.

    It is copied: a view would keep the whole cotangent alive after its slot is freed, and writing
    to it in place would change what the other inputs are still to read.
    """

    def pull_back(s: Slots, g: Tensor) -> Tensor:
        sizes = [shape[op.dim - 1] for shape in op.in_shapes]
        layout = torch.channels_last if g.dim() == 4 else torch.contiguous_format
        part = g.narrow(op.dim, sum(sizes[: i.side]), sizes[i.side])
        return part.clone(memory_format=layout)

    return backward_by_torch(pull_back)
