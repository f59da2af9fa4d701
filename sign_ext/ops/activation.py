"""Piecewise linear activations, the bit mask of their derivative, and what references share.

A tensor (N, C, H, W) in channels_last, or (N, C), is rows of C channels. A bit mask of it is uint8
of shape (rows, ceil(C / 8)): channel c of a row is bit c % 8 of byte c // 8.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Piecewise(NamedTuple):
    """An activation whose derivative takes two values.

    With slope 0 it is clamp(v, low, high), with derivative 1 strictly between the bounds (and at
    NaN, as in PyTorch) and 0 elsewhere. Otherwise it is leaky ReLU, v > 0 ? v : slope · v, and the
    bounds are ignored.
    """

    low: float = -math.inf
    high: float = math.inf
    slope: float = 0.0

    @property
    def is_identity(self) -> bool:
        """Whether it does nothing and needs no bits."""
        return self == IDENTITY

    def apply(self, v: Tensor) -> Tensor:
        """The activation's output, in v's dtype.

        Args:
            v: any floating tensor.
        """
        if self.slope:
            return torch.where(v > 0, v, v * self.slope)
        if self.is_identity:
            return v
        return v.clamp(self.low, self.high)

    def passes(self, y: Tensor) -> Tensor:
        """The derivative's bits, bool: True where it is 1.

        Args:
            y: the activation's output, or its input.
        """
        if self.slope:
            return y > 0
        return ~((y <= self.low) | (y >= self.high))

    def pull_back(self, cotangent: Tensor, bits: Tensor) -> Tensor:
        """The cotangent of the activation's input.

        Args:
            cotangent: of the activation's output.
            bits: from `passes`, the same shape.
        """
        return torch.where(bits, cotangent, cotangent * self.slope if self.slope else 0)


IDENTITY = Piecewise()
RELU = Piecewise(low=0.0)
RELU6 = Piecewise(low=0.0, high=6.0)


def mask_shape(shape: torch.Size | tuple[int, ...]) -> tuple[int, int]:
    """Shape of the bit mask of a tensor.

    Args:
        shape: (N, C) or (N, C, H, W).
    """
    channels = shape[1]
    return math.prod(shape) // max(channels, 1), (channels + 7) // 8


def rows_of(tensor: Tensor) -> Tensor:
    """The tensor as (rows, C), in the order of channels_last.

    Args:
        tensor: (N, C) or (N, C, H, W), in any layout.
    """
    if tensor.dim() == 2:
        return tensor
    rows = tensor.shape[0] * tensor.shape[2] * tensor.shape[3]
    return tensor.permute(0, 2, 3, 1).reshape(rows, tensor.shape[1])


def pack_bits(bits: Tensor) -> Tensor:
    """The bit mask of a bool tensor.

    Args:
        bits: bool, (N, C) or (N, C, H, W).

    Returns:
        uint8, `mask_shape(bits.shape)`.
    """
    rows = rows_of(bits)
    rows = torch.nn.functional.pad(rows, (0, -rows.shape[1] % 8))
    weights = 2 ** torch.arange(8, device=bits.device)
    groups = rows.reshape(len(rows), rows.shape[1] // 8, 8)
    return (groups * weights).sum(2).to(torch.uint8)


def unpack_bits(mask: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """The bool tensor of a bit mask: the inverse of `pack_bits`.

    Args:
        mask: uint8, `mask_shape(shape)`.
        shape: (N, C) or (N, C, H, W).
    """
    bits = (mask[:, :, None] >> torch.arange(8, device=mask.device)) & 1
    rows = bits.reshape(len(mask), 8 * mask.shape[1])[:, : shape[1]].bool()
    if len(shape) == 2:
        return rows
    n, c, h, w = shape
    return rows.reshape(n, h, w, c).permute(0, 3, 1, 2)


def widen(tensor: Tensor) -> Tensor:
    """A tensor in the dtype that operators compute in: float32, or float64 where it is that.

    Args:
        tensor: any floating tensor.
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def masked(g: Tensor, mask: Tensor | None, slope: float) -> Tensor:
    """A cotangent pulled back through an activation.

    Args:
        g: cotangent of the activation's output, (N, C, H, W) or (N, C).
        mask: the activation's bit mask, or None for no activation.
        slope: the activation's slope.

    Raises:
        ValueError: the mask has another shape.
    """
    if mask is None:
        return g
    if mask.shape != mask_shape(g.shape):
        raise ValueError(f"mask must have shape {mask_shape(g.shape)}, not {tuple(mask.shape)}")
    return Piecewise(slope=slope).pull_back(g, unpack_bits(mask, g.shape))


def backward_epilogue(
    value: Tensor, out: Tensor, other: Tensor | None, x_mask: Tensor | None, x_slope: float
) -> None:
    """out = pull_back(value + other, x_mask, x_slope), the last thing an input-backward does.

    Args:
        value: the cotangent that the operator computed.
        out: where the result goes.
        other: another branch's cotangent, or None.
        x_mask: bit mask of the activation that made the operator's input, or None.
        x_slope: that activation's slope.
    """
    if other is not None:
        value = value + other
    out.copy_(masked(value, x_mask, x_slope))
