"""Pooling: maxima keep the position of each window's winner, averages keep nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.ir.pooling import AveragePool, MaxPool
from sign_ext.compiler.schedule import Instruction
from sign_ext.engine.fused.bind.context import (
    BackwardKernel,
    BindContext,
    ForwardKernel,
    Slots,
    binds,
    binds_backward,
    tensor_in,
)
from sign_ext.ops.average_pool_backward import average_pool_backward
from sign_ext.ops.max_pool import index_shape, max_pool, max_pool_backward


@binds(MaxPool)
def max_forward(context: BindContext, i: Instruction, op: MaxPool) -> ForwardKernel:
    """The maxima, their positions, and the bits of the activation after them."""
    (index,), mask = i.own, i.mask

    def run(s: Slots, images: int, x: Tensor) -> Tensor:
        out = context.new(images, op.shape)
        positions = torch.empty(
            index_shape((images, *op.shape), op.kernel), dtype=torch.uint8, device=context.device
        )
        s[index] = positions
        max_pool(
            x,
            out,
            positions,
            kernel=op.kernel,
            stride=op.stride,
            padding=op.padding,
            dilation=op.dilation,
            activation=op.activation,
            mask=tensor_in(s, mask),
        )
        return out

    return run


@binds_backward(MaxPool)
def max_backward(context: BindContext, i: Instruction, op: MaxPool) -> BackwardKernel:
    """Each cotangent to the position of its window's maximum."""
    (index,), slope = i.own, op.activation.slope

    def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
        out = _output(context, i, other, len(g), op.in_shapes[0])
        max_pool_backward(
            g,
            s[index],
            out,
            kernel=op.kernel,
            stride=op.stride,
            padding=op.padding,
            dilation=op.dilation,
            mask=tensor_in(s, i.mask),
            slope=slope,
            other=other,
            x_mask=tensor_in(s, i.x_mask),
            x_slope=i.x_slope,
        )
        return out

    return run


@binds_backward(AveragePool)
def average_backward(context: BindContext, i: Instruction, op: AveragePool) -> BackwardKernel:
    """Each cotangent spread over its window; the forward pass is PyTorch's."""

    def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
        out = _output(context, i, other, len(g), op.in_shapes[0])
        average_pool_backward(
            g,
            out,
            kernel=op.kernel,
            stride=op.stride,
            padding=op.padding,
            count_include_pad=op.count_include_pad,
            divisor=op.divisor,
            other=other,
            x_mask=tensor_in(s, i.x_mask),
            x_slope=i.x_slope,
        )
        return out

    return run


def _output(
    context: BindContext, i: Instruction, other: Tensor | None, images: int, shape: Shape
) -> Tensor:
    """Where the input's cotangent goes: in place, over the other branch's, which it is added to."""
    if i.in_place and other is not None:
        return other
    return context.new(images, shape)
