"""Dense products on a CPU: oneDNN's convolutions with bias, sum and activation fused in.

These are the operators that PyTorch's own compiler uses: weights are reordered for the library
once, and the activation is applied while the result is in registers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sign_ext.compiler.ir.dense import Convolution, Linear
from sign_ext.engine.fused.products.matmul import GroupedMatmul, MatmulLinear, suits_grouped
from sign_ext.engine.fused.products.small_plane import SmallPlaneConvolution, suits_small_plane
from sign_ext.engine.fused.products.strided import StridedConvolution, suits_strided
from sign_ext.engine.fused.products.torch import (
    Dense,
    TorchConvolution,
    flipped,
)
from sign_ext.engine.fused.products.winograd import (
    WinogradConvolution,
    suits_winograd,
    vector_units,
)
from sign_ext.ops.activate import activate, pack_mask
from sign_ext.ops.activation import RELU, Piecewise

_mkldnn = torch.ops.mkldnn


def is_available() -> bool:
    """Whether this build of PyTorch has these operators."""
    return torch.backends.mkldnn.is_available() and all(
        hasattr(_mkldnn, name)
        for name in (
            "_convolution_pointwise",
            "_linear_pointwise",
            "_convolution_transpose_pointwise",
            "_reorder_convolution_transpose_weight",
            "_reorder_convolution_weight",
            "_reorder_linear_weight",
        )
    )


def post_op(activation: Piecewise) -> tuple[str, list[float]]:
    """The library's name for an activation, and its parameters."""
    if activation.is_identity:
        return "none", []
    if activation == RELU:
        return "relu", []
    if activation.slope:
        return "leaky_relu", [activation.slope]
    return "hardtanh", [activation.low, activation.high]


class OneDNNConvolution:
    """A float32 convolution; where the stride is 1, its input-backward is a convolution as well."""

    def __init__(self, op: Convolution, images: int, by_library: bool = False) -> None:
        """Reorder the weights for batches of about `images`."""
        self.op = op.without_weights()
        self.is_even = op.padding == op.padding_end
        self.attribute, self.scalars = post_op(op.activation)
        self.bias = op.bias
        if self.is_even:
            self.weight = self._reordered(op.weight, op.padding, op.stride, images, op.in_shapes[0])
        self.padding = None if by_library else op.transposed_padding
        if self.padding is not None:
            self.flipped = self._reordered(flipped(op), self.padding, (1, 1), images, op.shape)
        # PyTorch's own, only where the library's operators do not suffice: it keeps two more copies
        # of the weights.
        suffices = self.is_even and (self.padding is not None or op.stride != (1, 1))
        self.fallback = (
            None if suffices and not by_library else TorchConvolution(op, torch.float32, by_library)
        )
        self.is_strided = self.is_even and not by_library and op.stride != (1, 1)
        if self.is_strided:
            sizes = zip(op.in_shapes[0][1:], op.shape[1:], op.stride, op.padding, strict=True)
            reach = [d * (k - 1) + 1 for d, k in zip(op.dilation, op.kernel, strict=True)]
            # What the transposed convolution must add at the end to reach the input's size.
            self.end_padding = tuple(
                size - ((out - 1) * stride - 2 * pad + reached)
                for (size, out, stride, pad), reached in zip(sizes, reach, strict=True)
            )
            self.transposed = _mkldnn._reorder_convolution_transpose_weight(
                op.weight.contiguous(),
                op.padding,
                self.end_padding,
                op.stride,
                op.dilation,
                op.groups,
                (images, *op.shape),
            )

    def _reordered(
        self, weight: Tensor, padding: Any, stride: Any, images: int, shape: Any
    ) -> Tensor:
        result: Tensor = _mkldnn._reorder_convolution_weight(
            weight.contiguous(),
            padding,
            stride,
            self.op.dilation,
            self.op.groups,
            (images, *shape),
        )
        return result

    def forward(self, x: Tensor, residual: Tensor | None, mask: Tensor | None) -> Tensor:
        """See `Dense`."""
        op = self.op
        if not self.is_even:
            assert self.fallback is not None
            return self.fallback.forward(x, residual, mask)
        geometry = (op.padding, op.stride, op.dilation, op.groups)
        y: Tensor
        if residual is None:
            y = _mkldnn._convolution_pointwise(
                x, self.weight, self.bias, *geometry, self.attribute, self.scalars, ""
            )
        else:
            fused = "relu" if op.activation == RELU else None
            y = _mkldnn._convolution_pointwise.binary(
                x, residual, self.weight, self.bias, *geometry, "add", 1.0, fused, [], ""
            )
            if fused is None and not op.activation.is_identity:
                activate(y, y, activation=op.activation, mask=mask)
                return y
        if mask is not None:
            pack_mask(y, mask, op.activation)
        return y

    def backward(self, g: Tensor, other: Tensor | None) -> Tensor:
        """See `Dense`."""
        op = self.op
        if self.is_strided:
            strided: Tensor = _mkldnn._convolution_transpose_pointwise(
                g,
                self.transposed,
                None,
                op.padding,
                self.end_padding,
                op.stride,
                op.dilation,
                op.groups,
                "none",
                [],
                "",
            )
            strided = strided.contiguous(memory_format=torch.channels_last)
            return strided if other is None else strided.add_(other)
        if self.padding is None:
            assert self.fallback is not None
            return self.fallback.backward(g, other)
        geometry = (self.padding, (1, 1), op.dilation, op.groups)
        x: Tensor
        if other is None:
            x = _mkldnn._convolution_pointwise(g, self.flipped, None, *geometry, "none", [], "")
        else:
            x = _mkldnn._convolution_pointwise.binary(
                g, other, self.flipped, None, *geometry, "add", 1.0, None, [], ""
            )
        return x


def cpu_dense(op: Convolution | Linear, images: int, by_library: bool = False) -> Dense:
    """The products of an operation in float32: ours where they suit, else those of libraries.

    Args:
        op: a convolution or linear operation.
        images: batches will have about as many.
        by_library: whether the library alone is used, see `StepChoices`.
    """
    if isinstance(op, Linear) or op.is_pointwise:
        return MatmulLinear(op, images)
    if suits_grouped(op) and not by_library:
        return GroupedMatmul(op)
    if suits_small_plane(op) and not by_library:
        return SmallPlaneConvolution(op)
    if not by_library and vector_units():
        if suits_winograd(op, images):
            return WinogradConvolution(op)
        if suits_strided(op):
            return StridedConvolution(op)
    return OneDNNConvolution(op, images, by_library)
