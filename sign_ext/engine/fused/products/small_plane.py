"""Convolutions of a plane of at most four pixels on a CPU: one matrix for the whole image."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from sign_ext.compiler.ir.dense import Convolution
from sign_ext.compiler.ir.op import count
from sign_ext.engine.fused.products.torch import as_rows, from_rows
from sign_ext.ops.activate import activate

# On such a plane most taps of a window read padding: a 3×3 kernel takes 36 products of pixels with
# taps at 2×2 pixels and 9 at one, of which 16 and 1 count. Measured on one core of an Intel Xeon
# with AVX-512, float32, 3×3, in processor time beside the convolution of oneDNN, or ours where it
# has strides: with 64 images, from 64 → 64 to 512 → 512 channels, 1.8 to 7.1 times as fast at 2×2
# pixels, 2.3 to 3.8 at one, 3.5 to 5.4 from 2×2 to one; with 8 images 1.1 to 2.2, 1.8 to 4.0 and
# 1.7 to 2.5; with 2 images at 2×2 pixels 1.0 to 1.7. At 3×3 pixels, where every tap counts at some
# position, 0.7 to 1.8.
MOST_PIXELS = 4


def suits_small_plane(op: Convolution) -> bool:
    """Whether a convolution runs as one matrix product for the whole image, by a fixed rule.

    Args:
        op: a convolution.
    """
    pixels, out = count(op.in_shapes[0][1:]), count(op.shape[1:])
    halves = 2 * pixels <= op.kernel[0] * op.kernel[1]  # half of the products or fewer
    return op.groups == 1 and max(pixels, out) <= MOST_PIXELS and halves


def whole_image_matrix(op: Convolution) -> Tensor:
    """A convolution as a matrix: (OH · OW · C_out, H · W · C_in), channels innermost.

    Args:
        op: a convolution of one group.
    """
    (channels, height, width), (out, rows, columns) = op.in_shapes[0], op.shape
    matrix = op.weight.new_zeros((rows, columns, out, height, width, channels))
    for row, column, i, j in product(*map(range, (rows, columns, *op.kernel))):
        y = row * op.stride[0] + i * op.dilation[0] - op.padding[0]
        x = column * op.stride[1] + j * op.dilation[1] - op.padding[1]
        if 0 <= y < height and 0 <= x < width:
            matrix[row, column, :, y, x] = op.weight[:, :, i, j]
    return matrix.view(rows * columns * out, height * width * channels)


class SmallPlaneConvolution:
    """A float32 convolution for which `suits_small_plane` holds; see `Dense`."""

    def __init__(self, op: Convolution) -> None:
        """Lay out the weights for both directions."""
        self.op = op.without_weights()
        self.bias = op.bias
        self.transposed = whole_image_matrix(op)
        self.weight = self.transposed.t().contiguous()

    def forward(self, x: Tensor, residual: Tensor | None, mask: Tensor | None) -> Tensor:
        """See `Dense`."""
        op = self.op
        y = from_rows(torch.mm(as_rows(x), self.weight), op.shape)
        if self.bias is not None or residual is not None or not op.activation.is_identity:
            activate(y, y, activation=op.activation, bias=self.bias, residual=residual, mask=mask)
        return y

    def backward(self, g: Tensor, other: Tensor | None) -> Tensor:
        """See `Dense`."""
        rows = as_rows(g)
        if other is None:
            x = torch.mm(rows, self.transposed)
        else:
            x = torch.addmm(as_rows(other), rows, self.transposed)
        return from_rows(x, self.op.in_shapes[0])
