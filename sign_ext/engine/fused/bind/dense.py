"""Convolutions and linear operations: dense ones by a library, depthwise ones by our operators."""

from __future__ import annotations

import torch
from torch import Tensor

from sign_ext.compiler.ir.dense import Convolution, Linear
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
from sign_ext.engine.fused.products import onednn
from sign_ext.engine.fused.products.torch import Dense, torch_dense
from sign_ext.ops.depthwise import depthwise, depthwise_backward
from sign_ext.ops.masked_cotangent import masked_cotangent


def library_of(dtype: torch.dtype, device: torch.device) -> str:
    """Whose products dense operations are.

    Args:
        dtype: of activations.
        device: where they are.
    """
    if device.type == "cuda":
        return "cuDNN"
    has_onednn = device.type == "cpu" and onednn.is_available()
    return "oneDNN" if has_onednn and dtype == torch.float32 else "PyTorch"


@prepares(Convolution, Linear)
def products(context: BindContext, place: int, op: Convolution | Linear) -> Dense | None:
    """A library's products with the weights in its order; None for a depthwise convolution."""
    if isinstance(op, Convolution) and op.is_depthwise:
        return None
    by_library = place in context.by_library
    if library_of(context.dtype, context.device) == "oneDNN":
        return onednn.cpu_dense(op, context.micro_batch, by_library)
    return torch_dense(op, context.dtype, by_library)


def depthwise_weight(op: Convolution) -> Tensor:
    """A depthwise convolution's weight as its operator takes it: (KH, KW, C).

    Args:
        op: a depthwise convolution. A float64 weight stays float64, any other becomes float32.
    """
    dtype = op.weight.dtype if op.weight.dtype == torch.float64 else torch.float32
    return op.weight[:, 0].permute(1, 2, 0).to(dtype).contiguous()


@binds(Convolution, Linear)
def forward(context: BindContext, i: Instruction, op: Convolution | Linear) -> ForwardKernel:
    """activation(W x + bias [+ residual]), and the activation's bits."""
    if i.op not in context.prepared:
        assert isinstance(op, Convolution)
        return _depthwise_forward(context, i, op)
    dense: Dense = context.prepared[i.op]
    mask = i.mask

    def run(s: Slots, images: int, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return dense.forward(x, residual, tensor_in(s, mask))

    return run


@binds_backward(Convolution, Linear)
def backward(context: BindContext, i: Instruction, op: Convolution | Linear) -> BackwardKernel:
    """The input's cotangent; one that still lacks the operation's own mask is masked first."""
    if i.op not in context.prepared:
        assert isinstance(op, Convolution)
        return _depthwise_backward(context, i, op)
    dense: Dense = context.prepared[i.op]
    slope = op.activation.slope

    def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
        if i.mask is not None:
            # Not in place: another branch may still read this cotangent.
            masked = torch.empty_like(g)
            masked_cotangent(g, masked, mask=s[i.mask], slope=slope)
            g = masked
        return dense.backward(g, other)

    return run


def _depthwise_forward(context: BindContext, i: Instruction, op: Convolution) -> ForwardKernel:
    weight, mask = depthwise_weight(op), i.mask

    def run(s: Slots, images: int, x: Tensor) -> Tensor:
        out = context.new(images, op.shape)
        depthwise(
            x,
            weight,
            out,
            bias=op.bias,
            activation=op.activation,
            mask=tensor_in(s, mask),
            stride=op.stride,
            padding=op.padding,
            dilation=op.dilation,
        )
        return out

    return run


def _depthwise_backward(context: BindContext, i: Instruction, op: Convolution) -> BackwardKernel:
    """With the masks of this activation and of the input's, and the other branch, fused in."""
    weight, slope = depthwise_weight(op), op.activation.slope

    def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
        # In place, the operator adds to the other branch's cotangent where that lies.
        in_place = i.in_place and other is not None
        out = other if in_place else context.new(len(g), op.in_shapes[0])
        assert out is not None
        depthwise_backward(
            g,
            weight,
            out,
            mask=tensor_in(s, i.mask),
            slope=slope,
            other=other,
            x_mask=tensor_in(s, i.x_mask),
            x_slope=i.x_slope,
            stride=op.stride,
            padding=op.padding,
            dilation=op.dilation,
        )
        return out

    return run
