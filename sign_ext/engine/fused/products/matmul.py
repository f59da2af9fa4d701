"""Linear operations and 1×1 convolutions on a CPU: plain matrix products, then one pass of ours.

A call of oneDNN's linear operator costs 20 µs whatever its size and one of PyTorch's matrix product
1 µs, which decides in networks of small layers. oneDNN's applies an activation while the values are
in registers; here one more pass does, which is cheap while they are in the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sign_ext.compiler.ir.dense import Convolution, Linear
from sign_ext.compiler.ir.op import count
from sign_ext.engine.fused.products.torch import channels_innermost, from_rows
from sign_ext.ops.activate import activate
from sign_ext.ops.activation import rows_of

# Measured on one core with AVX-512, float32, from 8·3² rows of 96 → 576 to 64·24² of 24 → 144, with
# what follows the product: 1.0 to 1.4 times the speed of oneDNN's linear operator, except where a
# bias alone is added to as many values as these: there oneDNN is 1.0 to 1.7 times as fast.
MOST_BIASED = 1 << 18


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
        self.by_onednn = self.is_biased and rows * len(weight) > MOST_BIASED
        if self.by_onednn:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.transposed, rows)

    def _rows(self, x: Tensor) -> Tensor:
        """The rows that the matrix multiplies, without a copy: pixels, or flattened images."""
        rows = rows_of(x)
        return rows if self.is_pointwise else rows.reshape(len(x), -1)

    def forward(self, x: Tensor, residual: Tensor | None, mask: Tensor | None) -> Tensor:
        """See `Dense`."""
        op, rows = self.op, self._rows(x)
        if self.by_onednn:
            out = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")
            return from_rows(out, op.shape)
        if self.is_biased:
            return from_rows(torch.addmm(self.bias, rows, self.weight), op.shape)
        y = from_rows(torch.mm(rows, self.weight), op.shape)
        if residual is not None or not op.activation.is_identity:
            activate(y, y, activation=op.activation, bias=self.bias, residual=residual, mask=mask)
        return y

    def backward(self, g: Tensor, other: Tensor | None) -> Tensor:
        """See `Dense`."""
        rows = rows_of(g)
        if other is None:
            x = torch.mm(rows, self.transposed)
        else:
            x = torch.addmm(self._rows(other), rows, self.transposed)
        return from_rows(x, self.op.in_shapes[0])
