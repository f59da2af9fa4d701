"""Pointwise operations: affine maps with a sum and an activation, smooth activations, products."""

from __future__ import annotations

import torch
from torch import Tensor

from sign_ext.compiler.ir.pointwise import SMOOTH, Multiply, Pointwise, Smooth
from sign_ext.compiler.schedule import Instruction
from sign_ext.engine.fused.bind.context import (
    BackwardKernel,
    BindContext,
    ForwardKernel,
    Slots,
    backward_by_torch,
    binds,
    binds_backward,
    tensor_in,
)
from sign_ext.ops.activate import activate
from sign_ext.ops.masked_cotangent import masked_cotangent


@binds(Pointwise)
def forward(context: BindContext, i: Instruction, op: Pointwise) -> ForwardKernel:
    """activation(scale x + shift [+ residual]) and its bits, over x where nothing else reads x."""
    mask = i.mask

    def run(s: Slots, images: int, x: Tensor, residual: Tensor | None = None) -> Tensor:
        out = x if i.in_place else context.new(images, op.shape)
        activate(
            x,
            out,
            activation=op.activation,
            scale=op.scale,
            bias=op.shift,
            residual=residual,
            mask=tensor_in(s, mask),
        )
        return out

    return run


@binds_backward(Pointwise)
def backward(context: BindContext, i: Instruction, op: Pointwise) -> BackwardKernel:
    """The cotangent masked and scaled, in one pass."""
    slope = op.activation.slope

    def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
        out = torch.empty_like(g)
        masked_cotangent(g, out, mask=tensor_in(s, i.mask), slope=slope, scale=op.scale)
        return out if other is None else out.add_(other)

    return run


@binds(Smooth)
def smooth_forward(context: BindContext, i: Instruction, op: Smooth) -> ForwardKernel:
    """A smooth activation by PyTorch's operator."""
    value = SMOOTH[op.function][0]

    def run(s: Slots, images: int, x: Tensor) -> Tensor:
        return value(x)

    return run


@binds_backward(Smooth)
def smooth_backward(context: BindContext, i: Instruction, op: Smooth) -> BackwardKernel:
    """By the derivative at the value that was kept: the input, or the output where that does."""
    kept = i.reads[1]
    return backward_by_torch(lambda s, g: op.linear_vjp(g, s[kept])[0])


@binds_backward(Multiply)
def multiply_backward(context: BindContext, i: Instruction, op: Multiply) -> BackwardKernel:
    """The cotangent times the other factor, summed where this one was broadcast."""

    def pull_back(s: Slots, g: Tensor) -> Tensor:
        factor = s[i.reads[1]]
        assert factor is not None
        return (g * factor).sum_to_size(len(g), *op.in_shapes[i.side])

    return backward_by_torch(pull_back)
