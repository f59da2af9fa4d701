"""Operations on views: PyTorch's operators read them in strides."""

from __future__ import annotations

from torch import Tensor

from sign_ext.compiler.ir.viewed import Viewed
from sign_ext.compiler.schedule import Instruction
from sign_ext.engine.fused.bind.context import (
    BackwardKernel,
    BindContext,
    ForwardKernel,
    Slots,
    binds,
    binds_backward,
    prepares,
    tensor_in,
)
from sign_ext.ops.layout import share_memory


@prepares(Viewed)
def constants(context: BindContext, place: int, op: Viewed) -> Viewed | None:
    """The operation with its constants in the dtype of activations."""
    return op.with_constants(lambda c: c.to(context.dtype)) if op.constants() else None


@binds(Viewed)
def forward(context: BindContext, i: Instruction, op: Viewed) -> ForwardKernel:
    """The value; what else is kept goes to the slots of the operation's own residues."""
    op = context.prepared.get(i.op, op)

    def run(s: Slots, images: int, *inputs: Tensor) -> Tensor:
        value, own = op.run(*inputs)
        for slot, tensor in zip(i.own, own, strict=True):
            s[slot] = tensor
        return value

    return run


def slots_again(i: Instruction, op: Viewed) -> tuple[list[int | None], int | None]:
    """The slots of the inputs and of the value that a backward pass reads; None where it does not.

    Args:
        i: the instruction.
        op: its operation.
    """
    slots = dict(zip(op.backward_reads(i.side), i.reads[1:], strict=True))
    return [slots.get(number) for number in op.inputs], slots.get(op.output)


@binds_backward(Viewed)
def backward(context: BindContext, i: Instruction, op: Viewed) -> BackwardKernel:
    """The cotangent of one input, in memory of its own."""
    op = context.prepared.get(i.op, op)
    read, value = slots_again(i, op)

    def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
        inputs = [tensor_in(s, slot) for slot in read]
        own = tuple(s[slot] for slot in i.own)
        out = op.pull_back(i.side, g, inputs, tensor_in(s, value), own)
        if other is not None:
            return out + other if share_memory(out, g) else out.add_(other)
        return out.clone() if share_memory(out, g) else out

    return run
