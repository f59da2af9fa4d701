"""Transposed convolutions: the products of the convolution that each is the transpose of."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sign_ext.compiler.ir.transposed_convolution import TransposedConvolution
from sign_ext.compiler.schedule import Instruction
from sign_ext.engine.fused.bind.context import (
    BackwardKernel,
    BindContext,
    ForwardKernel,
    Slots,
    binds,
    binds_backward,
    epilogue,
    prepares,
    to_channels_last,
)
from sign_ext.engine.fused.bind.dense import depthwise_weight, library_of
from sign_ext.engine.fused.products import onednn
from sign_ext.engine.fused.products.torch import Dense, torch_dense
from sign_ext.ops.depthwise import depthwise, depthwise_backward


class Depthwise:
    """A depthwise convolution's value and input-backward by our operators, without bias."""

    def __init__(self, context: BindContext, op: TransposedConvolution) -> None:
        """Weights in their order."""
        self.context, self.adjoint = context, op.adjoint.without_weights()
        self.weight = depthwise_weight(op.adjoint)
        self.geometry: dict[str, Any] = {
            "stride": op.stride,
            "padding": op.padding,
            "dilation": op.dilation,
        }

    def forward(self, x: Tensor, residual: Tensor | None, mask: Tensor | None) -> Tensor:
        """See `Dense`."""
        out = self.context.new(len(x), self.adjoint.shape)
        depthwise(x, self.weight, out, **self.geometry)
        return out if residual is None else out.add_(residual)

    def backward(self, g: Tensor, other: Tensor | None) -> Tensor:
        """See `Dense`."""
        out = self.context.new(len(g), self.adjoint.in_shapes[0])
        depthwise_backward(g, self.weight, out, other=other, **self.geometry)
        return out


@prepares(TransposedConvolution)
def products(context: BindContext, place: int, op: TransposedConvolution) -> Dense:
    """The adjoint's products."""
    if op.adjoint.is_depthwise:
        return Depthwise(context, op)
    by_library = place in context.by_library
    if library_of(context.dtype, context.device) == "oneDNN":
        return onednn.cpu_dense(op.adjoint, context.micro_batch, by_library)
    return torch_dense(op.adjoint, context.dtype, by_library)


@binds(TransposedConvolution)
def forward(context: BindContext, i: Instruction, op: TransposedConvolution) -> ForwardKernel:
    """The adjoint's input-backward; then bias, residual, activation and bits in one pass."""
    dense: Dense = context.prepared[i.op]
    finish = epilogue(op.bias, op.activation, i.mask)

    def run(s: Slots, images: int, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return finish(s, to_channels_last(dense.backward(x, None)), residual)

    return run


@binds_backward(TransposedConvolution)
def backward(context: BindContext, i: Instruction, op: TransposedConvolution) -> BackwardKernel:
    """The adjoint, which adds another branch's cotangent."""
    dense: Dense = context.prepared[i.op]

    def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
        return to_channels_last(dense.forward(g, other, None))

    return run
