"""Linear operations and 1×1 convolutions on a CPU: matrix products, then one pass of ours.

A call of oneDNN's linear operator costs 20 µs whatever its size and one of PyTorch's matrix product
1 µs, which decides in networks of small layers; in large ones oneDNN's is the faster. It applies an
activation while the values are in registers; here one more pass does, which is cheap while they are
in the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sign_ext.compiler.ir.dense import Convolution, Linear
from sign_ext.compiler.ir.op import Shape, count
from sign_ext.engine.fused.products.torch import channels_innermost
from sign_ext.ops.activate import activate
from sign_ext.ops.activation import rows_of

# Measured on one core of an Intel Xeon with AVX-512, float32, from 8·3² rows of 96 → 576 to 64·24²
# of 24 → 144, with what follows the product: 0.9 to 1.4 times the speed of oneDNN's linear
# operator, the larger the fewer values there are; where a bias alone is added to as many values as
# these, oneDNN is 1.0 to 1.7 times as fast.
MOST_BIASED = 1 << 18
# From as many multiply-adds on, or as many weights, oneDNN's linear operator is faster, whatever
# follows. Measured on one core of an AMD EPYC with AVX-512, float32: from 296 rows of 192 → 576 (33
# million) to 2,048 of 2,048 → 2,048 it reaches 110 to 113 GFLOP/s and PyTorch's product 94 to 104;
# 8 rows of 576 → 1,024 and of 960 → 1,280, whose weights come from memory, take 0.6 of the time.
# At 72 rows of 96 → 576 (4 million) it reaches 91 and PyTorch's 95; 8 rows of 144 → 576 take 1.4 of
# the time. With K = 5, DeiT3-small took 0.87 of the time, ViT-tiny 0.91.
LEAST_LARGE, LEAST_WEIGHTS = 1 << 24, 1 << 18

_mkldnn = torch.ops.mkldnn


def _pixels(x: Tensor) -> Tensor:
    """`rows_of` in one view instead of two, where the tensor is laid out for it."""
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        images, channels, height, width = x.shape
        return x.as_strided((images * height * width, channels), (channels, 1))
    return rows_of(x)


def _images(rows: Tensor, shape: Shape) -> Tensor:
    """`from_rows` of a product's new rows, in one view instead of two."""
    if len(shape) == 1:
        return rows
    channels, height, width = shape
    row = width * channels
    images = rows.numel() // (height * row)
    return rows.as_strided((images, channels, height, width), (height * row, 1, row, channels))


class MatmulLinear:
    """A float32 linear operation, or a 1×1 convolution, which is a linear one on each pixel."""

    def __init__(self, op: Convolution | Linear, images: int) -> None:
        """Lay out the weights for both directions, for batches of about `images`."""
        self.op = op.without_weights()
        self.bias = op.bias
        if isinstance(op, Convolution):
            weight, positions = op.weight[:, :, 0, 0], count(op.shape[1:])
        else:
            weight, positions = channels_innermost(op.weight, op.in_shapes[0]), 1
        self.is_pointwise = isinstance(op, Convolution)
        self.is_biased = (
            op.activation.is_identity and len(op.in_shapes) == 1 and op.bias is not None
        )
        rows = images * positions
        self.transposed = weight.contiguous()
        self.weight = weight.t().contiguous()
        self.is_large = rows * weight.numel() >= LEAST_LARGE or weight.numel() >= LEAST_WEIGHTS
        self.by_onednn = self.is_large or (self.is_biased and rows * len(weight) > MOST_BIASED)
        if self.by_onednn:
            reorder = _mkldnn._reorder_linear_weight
            forward = reorder(self.transposed, rows)
            if self.is_large:
                self.transposed = reorder(self.weight, rows)
            self.weight = forward

    def _rows(self, x: Tensor) -> Tensor:
        """The rows that the matrix multiplies, without a copy: pixels, or flattened images."""
        rows = _pixels(x)
        return rows if self.is_pointwise else rows.reshape(x.shape[0], -1)

    def forward(self, x: Tensor, residual: Tensor | None, mask: Tensor | None) -> Tensor:
        """See `Dense`."""
        op, rows = self.op, self._rows(x)
        if self.by_onednn:
            bias = self.bias if self.is_biased else None
            product = _mkldnn._linear_pointwise(rows, self.weight, bias, "none", [], "")
        elif self.is_biased and self.bias is not None:
            product = torch.addmm(self.bias, rows, self.weight)
        else:
            product = torch.mm(rows, self.weight)
        y = _images(product, op.shape)
        if not self.is_biased and (residual is not None or not op.activation.is_identity):
            activate(y, y, activation=op.activation, bias=self.bias, residual=residual, mask=mask)
        return y

    def backward(self, g: Tensor, other: Tensor | None) -> Tensor:
        """See `Dense`."""
        rows, weight = _pixels(g), self.transposed
        added = None if other is None else self._rows(other)
        if not self.is_large:
            x = torch.mm(rows, weight) if added is None else torch.addmm(added, rows, weight)
        elif added is None:
            x = _mkldnn._linear_pointwise(rows, weight, None, "none", [], "")
        else:
            x = _mkldnn._linear_pointwise.binary(rows, added, weight, None, "add")
        return _images(x, self.op.in_shapes[0])


class GroupedMatmul:
    """A float32 1×1 convolution of several groups: a matrix product for each, in one call.

    Measured on one core with AVX-512, from 72 rows of 24 groups of 16 to 4,608 rows of 8 groups of
    16: 1.2 to 2.5 times the speed of oneDNN's convolution.
    """

    def __init__(self, op: Convolution) -> None:
        """Lay out the weights for both directions."""
        self.op = op.without_weights()
        self.bias = op.bias
        out, per_group = op.weight.shape[:2]
        weight = op.weight.reshape(op.groups, out // op.groups, per_group)
        self.transposed = weight.contiguous()
        self.weight = weight.transpose(1, 2).contiguous()

    def _product(self, x: Tensor, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
        channels, height, width = shape
        y = torch.empty((x.shape[0], height, width, channels))
        groups = len(weight)
        rows, out = rows_of(x), y.view(-1, groups, channels // groups)
        rows = rows.view(rows.shape[0], groups, -1)
        torch.bmm(rows.transpose(0, 1), weight, out=out.transpose(0, 1))
        return y.permute(0, 3, 1, 2)

    def forward(self, x: Tensor, residual: Tensor | None, mask: Tensor | None) -> Tensor:
        """See `Dense`."""
        op = self.op
        y = self._product(x, self.weight, op.shape)
        if self.bias is not None or residual is not None or not op.activation.is_identity:
            activate(y, y, activation=op.activation, bias=self.bias, residual=residual, mask=mask)
        return y

    def backward(self, g: Tensor, other: Tensor | None) -> Tensor:
        """See `Dense`."""
        x = self._product(g, self.transposed, self.op.in_shapes[0])
        return x if other is None else x.add_(other)


def suits_grouped(op: Convolution) -> bool:
    """Whether a convolution is a matrix product for each of several groups of channels.

    Args:
        op: a convolution.
    """
    plain = op.kernel == op.stride == (1, 1) and op.padding == op.padding_end == (0, 0)
    return plain and op.groups > 1
