"""3×3 convolutions of stride 1 on a CPU by Winograd's minimal filtering, in both directions."""

from __future__ import annotations

import torch
from torch import Tensor

from sign_ext.compiler.ir.dense import Convolution
from sign_ext.engine.fused.products.torch import flipped
from sign_ext.ops.activate import pack_mask
from sign_ext.ops.native import NATIVE
from sign_ext.ops.winograd import LEAST_CHANNELS, winograd, winograd_weight

MOST_WEIGHTS = 128 * 128  # transformed, they must fit in the L2 cache next to a chunk of tiles
LEAST_SIDE = 6  # pixels: below, too many tiles are cut off at the image's edge
# Many images make up for that, measured on one core of an AMD EPYC with AVX-512 beside oneDNN's
# convolution, in both directions: 128 → 128 channels at 4×4 pixels 1.26 times as fast with 16 and
# 32 images, 1.43 with 64 (64 → 64 channels: 1.40), at 5×5 pixels 1.06; but 0.70 at 3×3 pixels.
LEAST_SIDE_OF_MANY, MANY = 4, 16


def vector_units() -> bool:
    """Whether this processor has the vector units with which our operator beats the library."""
    return NATIVE.loaded and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def suits_winograd(op: Convolution, images: int) -> bool:
    """Whether Winograd's algorithm is used for a convolution, by a fixed rule.

    Args:
        op: a convolution.
        images: batches will have about as many.
    """
    out, channels = op.weight.shape[:2]
    return (
        op.kernel == (3, 3)
        and op.stride == op.dilation == (1, 1)
        and op.groups == 1
        and min(out, channels) >= LEAST_CHANNELS
        and out * channels <= MOST_WEIGHTS
        and min(op.shape[1:]) >= (LEAST_SIDE_OF_MANY if images >= MANY else LEAST_SIDE)
        and op.transposed_padding is not None
    )


class WinogradConvolution:
    """A float32 convolution for which `suits_winograd` holds; see `Dense`."""

    def __init__(self, op: Convolution) -> None:
        """Transform the weights."""
        self.op = op.without_weights()
        self.weight = winograd_weight(op.weight)
        self.flipped = winograd_weight(flipped(op))
        padding = op.transposed_padding
        assert padding is not None
        self.padding = padding

    def _new(self, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        return torch.empty((len(like), *shape), dtype=like.dtype, memory_format=torch.channels_last)

    def forward(self, x: Tensor, residual: Tensor | None, mask: Tensor | None) -> Tensor:
        """See `Dense`."""
        op = self.op
        y = self._new(x, op.shape)
        winograd(
            x,
            self.weight,
            y,
            bias=op.bias,
            residual=residual,
            activation=op.activation,
            padding=op.padding,
        )
        if mask is not None:
            pack_mask(y, mask, op.activation)
        return y

    def backward(self, g: Tensor, other: Tensor | None) -> Tensor:
        """See `Dense`."""
        x = self._new(g, self.op.in_shapes[0])
        winograd(g, self.flipped, x, residual=other, padding=self.padding)
        return x
