"""Inverted residuals as one operation in each direction."""

from __future__ import annotations

from torch import Tensor

from sign_ext.compiler.ir.inverted_residual import InvertedResidual
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
from sign_ext.engine.fused.bind.dense import depthwise_weight
from sign_ext.ops.inverted_residual import (
    Block,
    PackedBlock,
    inverted_residual,
    inverted_residual_backward,
    pack_block,
)


def block_of(op: InvertedResidual) -> Block:
    """An inverted residual's constants as its operator takes them.

    Args:
        op: the operation.
    """
    return Block(
        expand=op.expand.weight[:, :, 0, 0],
        depthwise=depthwise_weight(op.depthwise),
        project=op.project.weight[:, :, 0, 0],
        expand_bias=op.expand.bias,
        depthwise_bias=op.depthwise.bias,
        project_bias=op.project.bias,
        expand_activation=op.expand.activation,
        depthwise_activation=op.depthwise.activation,
        activation=op.activation,
        stride=op.depthwise.stride,
        padding=op.depthwise.padding,
    )


@prepares(InvertedResidual)
def packed(context: BindContext, place: int, op: InvertedResidual) -> PackedBlock:
    """The block's constants in its operator's order."""
    return pack_block(block_of(op), context.dtype, tf32=context.tf32)


def _inner(i: Instruction, op: InvertedResidual) -> list[int | None]:
    """The slots of the bits of the first two activations; None for the identity."""
    slots = iter(i.own)
    parts = (op.expand, op.depthwise)
    return [None if part.activation.is_identity else next(slots) for part in parts]


@binds(InvertedResidual)
def forward(context: BindContext, i: Instruction, op: InvertedResidual) -> ForwardKernel:
    """The block's value, and the bits of its activations."""
    block: PackedBlock = context.prepared[i.op]
    mask, inner = i.mask, _inner(i, op)
    shapes = (op.expand.shape, op.depthwise.shape)

    def run(s: Slots, images: int, x: Tensor, residual: Tensor | None = None) -> Tensor:
        for slot, shape in zip(inner, shapes, strict=True):
            if slot is not None:
                s[slot] = context.new_mask(images, shape)
        expand_mask, depthwise_mask = (tensor_in(s, slot) for slot in inner)
        out = context.new(images, op.shape)
        inverted_residual(
            x,
            block,
            out,
            expand_mask=expand_mask,
            depthwise_mask=depthwise_mask,
            residual=residual,
            mask=tensor_in(s, mask),
        )
        return out

    return run


@binds_backward(InvertedResidual)
def backward(context: BindContext, i: Instruction, op: InvertedResidual) -> BackwardKernel:
    """The input's cotangent. `other` may be `g` itself, so the result never goes over either."""
    block: PackedBlock = context.prepared[i.op]
    shape, inner = op.in_shapes[0], _inner(i, op)

    def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
        expand_mask, depthwise_mask = (tensor_in(s, slot) for slot in inner)
        out = context.new(len(g), shape)
        inverted_residual_backward(
            g,
            block,
            out,
            expand_mask=expand_mask,
            depthwise_mask=depthwise_mask,
            other=other,
        )
        return out

    return run
