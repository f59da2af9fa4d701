"""Dense products by PyTorch, on any device, and what every library's products share.

PyTorch's convolution (cuDNN on CUDA) or matrix product is followed by one pass of ours for bias,
residual, activation and bits. The input-backward of a convolution of stride 1 is a convolution with
the flipped, transposed weight, which is deterministic on every device.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.compiler.ir.dense import Convolution, Linear
from sign_ext.ops.activate import activate


class Dense(Protocol):
    """The products of one operation, with its constants prepared."""

    def forward(self, x: Tensor, residual: Tensor | None, mask: Tensor | None) -> Tensor:
        """activation(W x + bias [+ residual]); writes the activation's bits to `mask`."""

    def backward(self, g: Tensor, other: Tensor | None) -> Tensor:
        """The input's cotangent from that of W x + bias, plus `other`."""


def as_rows(x: Tensor) -> Tensor:
    """(N, C, H, W) in channels_last as (N, H·W·C) without a copy; (N, F) as it is."""
    return x if x.dim() == 2 else x.permute(0, 2, 3, 1).reshape(len(x), -1)


def from_rows(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `as_rows` for one image's shape (C, H, W) or (F,)."""
    if len(shape) == 1:
        return rows
    channels, height, width = shape
    return rows.reshape(-1, height, width, channels).permute(0, 3, 1, 2)


def channels_innermost(weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A linear weight whose inputs are taken in the order (H, W, C) instead of (C, H, W)."""
    if len(shape) == 1:
        return weight
    return weight.reshape(len(weight), *shape).permute(0, 2, 3, 1).reshape(len(weight), -1)


def flipped(op: Convolution) -> Tensor:
    """The weight of the convolution that is this one's transpose at stride 1."""
    out, per_group, *kernel = op.weight.shape
    grouped = op.weight.reshape(op.groups, out // op.groups, per_group, *kernel)
    swapped = grouped.transpose(1, 2).reshape(op.groups * per_group, out // op.groups, *kernel)
    return swapped.flip(2, 3).contiguous()


class TorchConvolution:
    """A convolution by PyTorch."""

    def __init__(self, op: Convolution, dtype: torch.dtype, by_library: bool = False) -> None:
        """Prepare weights for activations of `dtype`; see `StepChoices.by_library`."""
        self.op = op
        layout = torch.channels_last
        self.weight = op.weight.to(dtype).contiguous(memory_format=layout)
        self.bias = op.bias  # added by `activate`, in its own precision
        self.padding = None if by_library else op.transposed_padding
        if self.padding is not None:
            self.flipped = flipped(op).to(dtype).contiguous(memory_format=layout)

    def _padded(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The input, padded here if its padding is uneven, and the padding left to the library."""
        op = self.op
        if op.padding == op.padding_end:
            return x, op.padding
        (top, left), (bottom, right) = op.padding, op.padding_end
        return F.pad(x, (left, right, top, bottom)), (0, 0)

    def forward(self, x: Tensor, residual: Tensor | None, mask: Tensor | None) -> Tensor:
        """See `Dense`."""
        op = self.op
        x, padding = self._padded(x)
        y = torch.conv2d(x, self.weight, None, op.stride, padding, op.dilation, op.groups)
        y = y.contiguous(memory_format=torch.channels_last)
        if self.bias is not None or residual is not None or not op.activation.is_identity:
            activate(y, y, activation=op.activation, bias=self.bias, residual=residual, mask=mask)
        return y

    def backward(self, g: Tensor, other: Tensor | None) -> Tensor:
        """See `Dense`."""
        op = self.op
        if self.padding is not None:
            x = torch.conv2d(g, self.flipped, None, 1, self.padding, op.dilation, op.groups)
            x = x.contiguous(memory_format=torch.channels_last)
        else:
            x = self._library_backward(g)
        return x if other is None else x.add_(other)

    def _library_backward(self, g: Tensor) -> Tensor:
        """The library's own input-backward; uneven padding is cut off afterwards."""
        op = self.op
        (top, left), (bottom, right) = op.padding, op.padding_end
        channels, height, width = op.in_shapes[0]
        even = op.padding == op.padding_end
        size = (height, width) if even else (height + top + bottom, width + left + right)
        like = torch.empty(
            (len(g), channels, *size),
            dtype=g.dtype,
            device=g.device,
            memory_format=torch.channels_last,
        )
        x, _, _ = torch.ops.aten.convolution_backward(
            g,
            like,
            self.weight,
            None,
            op.stride,
            op.padding if even else (0, 0),
            op.dilation,
            False,
            (0, 0),
            op.groups,
            (True, False, False),
        )
        if not even:
            x = x[:, :, top : top + height, left : left + width]
        return x.contiguous(memory_format=torch.channels_last)


class TorchLinear:
    """A linear operation by PyTorch."""

    def __init__(self, op: Linear, dtype: torch.dtype) -> None:
        """Prepare weights for activations of `dtype`."""
        self.op = op.without_weights()
        self.weight = channels_innermost(op.weight, op.in_shapes[0]).to(dtype).contiguous()
        self.bias = op.bias

    def forward(self, x: Tensor, residual: Tensor | None, mask: Tensor | None) -> Tensor:
        """See `Dense`."""
        y = as_rows(x) @ self.weight.t()
        if self.bias is not None or residual is not None or not self.op.activation.is_identity:
            activate(
                y, y, activation=self.op.activation, bias=self.bias, residual=residual, mask=mask
            )
        return y

    def backward(self, g: Tensor, other: Tensor | None) -> Tensor:
        """See `Dense`."""
        x = from_rows(g @ self.weight, self.op.in_shapes[0])
        return x if other is None else x.add_(other)


def torch_dense(op: Convolution | Linear, dtype: torch.dtype, by_library: bool = False) -> Dense:
    """PyTorch's products for an operation.

    Args:
        op: a convolution or linear operation.
        dtype: of the activations.
        by_library: whether the input-backward is the library's own, see `StepChoices`.
    """
    if isinstance(op, Linear):
        return TorchLinear(op, dtype)
    return TorchConvolution(op, dtype, by_library)
