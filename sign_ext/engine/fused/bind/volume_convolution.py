"""3-d convolutions by a library, with the channels innermost."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.compiler.ir.volume_convolution import VolumeConvolution, as_image, as_volume
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
from sign_ext.engine.fused.bind.dense import library_of

_mkldnn = torch.ops.mkldnn


class Products(Protocol):
    """A convolution of volumes and its transpose, without bias."""

    def convolve(self, volume: Tensor) -> Tensor:
        """weight ∗ volume."""

    def transpose(self, volume: Tensor) -> Tensor:
        """The transpose."""


class OneDNNProducts:
    """In float32 on a CPU, with the weights in the library's order."""

    def __init__(self, op: VolumeConvolution, images: int) -> None:
        """Reorder the weights for batches of about `images`."""
        self.geometry = (op.padding, op.stride, op.dilation, op.groups)
        large, small = (op.out_size, op.size) if op.transposed else (op.size, op.out_size)
        channels, out = (
            (op.shape, op.in_shapes[0]) if op.transposed else (op.in_shapes[0], op.shape)
        )
        weight = op.weight.contiguous()
        axes = zip(large, small, op.stride, op.padding, op.dilation, weight.shape[2:], strict=True)
        # What the transposed convolution must add at the end to reach the larger size.
        self.end = [n - ((m - 1) * s - 2 * p + d * (k - 1) + 1) for n, m, s, p, d, k in axes]
        self.weight = _mkldnn._reorder_convolution_weight(
            weight, *self.geometry, (images, channels[0], *large)
        )
        self.transposed = _mkldnn._reorder_convolution_transpose_weight(
            weight,
            op.padding,
            self.end,
            *self.geometry[1:],
            (images, out[0], *small),
        )

    def convolve(self, volume: Tensor) -> Tensor:
        """See `Products`."""
        found: Tensor = _mkldnn._convolution_pointwise(
            volume, self.weight, None, *self.geometry, "none", [], ""
        )
        return found

    def transpose(self, volume: Tensor) -> Tensor:
        """See `Products`."""
        padding, *rest = self.geometry
        found: Tensor = _mkldnn._convolution_transpose_pointwise(
            volume, self.transposed, None, padding, self.end, *rest, "none", [], ""
        )
        return found


class TorchProducts:
    """By PyTorch, in any dtype and on any device."""

    def __init__(self, op: VolumeConvolution, dtype: torch.dtype) -> None:
        """Weights for activations of `dtype`."""
        self.weight = op.weight.to(dtype).contiguous(memory_format=torch.channels_last_3d)
        self.geometry = (op.stride, op.padding, op.dilation)
        self.groups = op.groups
        large, channels = (op.out_size, op.shape) if op.transposed else (op.size, op.in_shapes[0])
        self.large = (channels[0], *large)

    def convolve(self, volume: Tensor) -> Tensor:
        """See `Products`."""
        return F.conv3d(volume, self.weight, None, *self.geometry, self.groups)

    def transpose(self, volume: Tensor) -> Tensor:
        """See `Products`."""
        like = torch.empty(
            (len(volume), *self.large),
            dtype=volume.dtype,
            device=volume.device,
            memory_format=torch.channels_last_3d,
        )
        found: Tensor = torch.ops.aten.convolution_backward(
            volume,
            like,
            self.weight,
            None,
            *self.geometry,
            False,
            (0, 0, 0),
            self.groups,
            (True, False, False),
        )[0]
        return found


@prepares(VolumeConvolution)
def products(context: BindContext, place: int, op: VolumeConvolution) -> Products:
    """A library's, with the weights in its order."""
    if library_of(context.dtype, context.device) == "oneDNN":
        return OneDNNProducts(op, context.micro_batch)
    return TorchProducts(op, context.dtype)


def _stored(volume: Tensor) -> Tensor:
    """A library's result as values are stored."""
    return to_channels_last(as_image(volume.contiguous(memory_format=torch.channels_last_3d)))


@binds(VolumeConvolution)
def forward(context: BindContext, i: Instruction, op: VolumeConvolution) -> ForwardKernel:
    """The product; then bias, residual, activation and bits in one pass."""
    made: Products = context.prepared[i.op]
    product = made.transpose if op.transposed else made.convolve
    size, finish = op.size, epilogue(op.bias, op.activation, i.mask)

    def run(s: Slots, images: int, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return finish(s, _stored(product(as_volume(x, size))), residual)

    return run


@binds_backward(VolumeConvolution)
def backward(context: BindContext, i: Instruction, op: VolumeConvolution) -> BackwardKernel:
    """The transpose, plus another branch's cotangent."""
    made: Products = context.prepared[i.op]
    product = made.convolve if op.transposed else made.transpose
    size = op.out_size

    def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
        found = _stored(product(as_volume(g, size)))
        return found if other is None else found.add_(other)

    return run
