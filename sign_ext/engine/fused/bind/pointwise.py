"""Pointwise operations: affine maps with a sum and an activation, smooth activations, products."""

from __future__ import annotations

import torch
from torch import Tensor

from sign_ext.compiler.ir.pointwise import (
    SMOOTH,
    Multiply,
    Pointwise,
    Smooth,
    derivative_bytes,
)
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
    to_channels_last,
)
from sign_ext.ops.activate import activate
from sign_ext.ops.gate import gate, position_sums
from sign_ext.ops.masked_cotangent import masked_cotangent
from sign_ext.ops.smooth import smooth, smooth_backward


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
    """The value, over x where nothing else reads x, and the derivative."""
    function = op.coded
    if function is None:
        value = SMOOTH[op.function][0]
        return lambda s, images, x: value(x)
    (slot,), size = i.own, derivative_bytes(context.dtype.itemsize)
    dtype = torch.int16 if size < 4 else context.dtype

    def run(s: Slots, images: int, x: Tensor) -> Tensor:
        derivative = torch.empty_like(x, dtype=dtype)
        fraction = torch.empty_like(x, dtype=torch.uint8) if size == 3 else None
        s[slot] = (derivative, fraction)
        out = x if i.in_place else torch.empty_like(x)
        smooth(x, out, derivative, fraction, function=function)
        return out

    return run


@binds_backward(Smooth)
def smooth_pull_back(context: BindContext, i: Instruction, op: Smooth) -> BackwardKernel:
    """The cotangent times the derivative, over the cotangent where nothing else reads that.

    A function that our operator does not know has its derivative from the value that was kept.
    """
    function = op.coded
    if function is None:
        kept = i.reads[1]
        return backward_by_torch(lambda s, g: op.linear_vjp(g, s[kept])[0])
    (slot,) = i.own

    def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
        derivative, fraction = s[slot]
        out = torch.empty_like(g) if not i.in_place else g if other is None else other
        smooth_backward(g, derivative, out, fraction, other=other, function=function)
        return out

    return run


@binds(Multiply)
def multiply_forward(context: BindContext, i: Instruction, op: Multiply) -> ForwardKernel:
    """The product; one pass over the image where the second factor has one value a channel."""
    if not op.is_gate:
        return lambda s, images, a, b: to_channels_last(a * b)
    wide = torch.promote_types(context.dtype, torch.float32)

    def run(s: Slots, images: int, x: Tensor, factor: Tensor) -> Tensor:
        out = context.new(images, op.shape)
        gate(x, out, factor.reshape(images, -1).to(wide))
        return out

    return run


@binds_backward(Multiply)
def multiply_backward(context: BindContext, i: Instruction, op: Multiply) -> BackwardKernel:
    """The cotangent times the other factor, summed where this one was broadcast."""
    kept = i.reads[1]
    if not op.is_gate:
        shape = op.in_shapes[i.side]
        return backward_by_torch(lambda s, g: (g * s[kept]).sum_to_size((len(g), *shape)))
    wide = torch.promote_types(context.dtype, torch.float32)

    def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
        factor = s[kept]
        if i.side == 0:
            out = context.new(len(g), op.shape)
            gate(g, out, factor.reshape(len(g), -1).to(wide))
        else:
            sums = torch.empty(factor.shape[:2], dtype=wide, device=g.device)
            position_sums(g, sums, y=factor)
            out = to_channels_last(sums.to(context.dtype)[:, :, None, None])
        return out if other is None else out.add_(other)

    return run
