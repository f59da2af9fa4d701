"""max_pool and max_pool_backward: maximum pooling that keeps in a few bits which position won."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.ops.activate import store_activated
from sign_ext.ops.activation import (
    IDENTITY,
    Piecewise,
    backward_epilogue,
    mask_shape,
    masked,
    rows_of,
    widen,
)
from sign_ext.ops.layout import Pair, padding_end
from sign_ext.ops.native import operator


def index_bits(kernel: Pair) -> int:
    """Bits that say which position of a window won.

    Args:
        kernel: (KH, KW).

    Raises:
        ValueError: more than 256 positions.
    """
    positions = kernel[0] * kernel[1]
    for bits in (2, 4, 8):
        if positions <= 2**bits:
            return bits
    raise ValueError(f"a window of {kernel[0]}×{kernel[1]} has more than 256 positions")


def index_shape(shape: torch.Size | tuple[int, ...], kernel: Pair) -> tuple[int, int, int]:
    """Shape of the index of a pooled tensor.

    Args:
        shape: (N, C, OH, OW) of the output.
        kernel: (KH, KW).
    """
    return (*mask_shape(shape), index_bits(kernel))


def pack_index(where: Tensor, bits: int) -> Tensor:
    """Window positions as an index.

    Args:
        where: each window's winning position, integers (N, C, OH, OW).
        bits: of each, from `index_bits`.

    Returns:
        uint8, `index_shape(where.shape, kernel)`.
    """
    rows = rows_of(where)
    rows = F.pad(rows, (0, -rows.shape[1] % 8))
    per_byte = 8 // bits
    groups = rows.reshape(len(rows), rows.shape[1] // 8, bits, per_byte)
    shifts = bits * torch.arange(per_byte, device=where.device)
    return (groups << shifts).sum(3).to(torch.uint8)


def unpack_index(index: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `pack_index`.

    Args:
        index: uint8 (rows, ceil(C / 8), bits).
        shape: (N, C, OH, OW).

    Returns:
        int64 of that shape.
    """
    bits = index.shape[2]
    shifts = bits * torch.arange(8 // bits, device=index.device)
    values = (index[..., None].long() >> shifts) & (2**bits - 1)
    n, c, h, w = shape
    rows = values.reshape(n * h * w, 8 * index.shape[1])[:, :c]
    return rows.reshape(n, h, w, c).permute(0, 3, 1, 2)


@operator
def max_pool(
    x: Tensor,
    out: Tensor,
    index: Tensor,
    *,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    activation: Piecewise = IDENTITY,
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
) -> None:
    """Write act(bias[c] + maximum over each window), which position won, and the activation's bits.

    Ties and NaN are treated as in PyTorch: the first maximum in row-major order wins, and a NaN
    replaces what came before it.

    Args:
        x: (N, C, H, W) in channels_last, float32 or bfloat16 (any dtype where the reference runs).
        out: (N, C, OH, OW), x's dtype and layout. Its size says how many windows there are, so
            rounding it up or down (ceil_mode) is up to the caller.
        index: uint8, `index_shape(out.shape, kernel)`: 8 channels' winners are one little-endian
            integer, channel j's position kh · KW + kw at bits [j · bits, (j + 1) · bits).
        bias: (C,) float32, added to the maximum, or None.
        mask: uint8, `mask_shape(out.shape)`, for the activation's bits, or None. They are taken
            from `out` as it is stored.
        activation: applied to the sum; its slope is not negative.
        kernel: (KH, KW), at most 256 positions.
        stride: (vertical, horizontal).
        padding: before each axis (top, left); positions outside x never win.
        dilation: (vertical, horizontal).

    Raises:
        RuntimeError: the native operator refuses an argument; the message names it.
        ValueError: the reference refuses one.

    Example:
        >>> x = torch.tensor([[[[1.0, 3.0], [2.0, 3.0]]]])
        >>> y, index = torch.empty(1, 1, 1, 1), torch.empty(1, 1, 2, dtype=torch.uint8)
        >>> max_pool(x, y, index, kernel=(2, 2), stride=(2, 2))
        >>> y.item(), index[0, 0, 0].item()
        (3.0, 1)
        >>> x = torch.arange(4.0, dtype=torch.float64).view(1, 1, 2, 2)
        >>> y = x.new_empty(1, 1, 1, 1)
        >>> max_pool.reference(x, y, index, kernel=(2, 2), stride=(1, 1))
        >>> y.item(), index[0, 0, 0].item()
        (3.0, 3)
    """
    geometry = (out.shape, kernel, stride, padding, dilation)
    windows = _windows_of(x, *geometry)
    inside = _windows_of(torch.zeros_like(x), *geometry) == 0
    positions = torch.arange(windows.shape[2], device=x.device)[:, None, None]
    value = windows.amax(2, keepdim=True)
    # The last NaN where there is one; else the first of the greatest.
    nan = windows.isnan()
    first = torch.where(inside & (windows == value), positions, windows.shape[2]).amin(2)
    where = torch.where(nan.any(2), torch.where(nan, positions, -1).amax(2), first)
    value = widen(value.squeeze(2))
    if bias is not None:
        value = value + bias[:, None, None]
    index.copy_(pack_index(where, index_bits(kernel)))
    store_activated(value, out, activation, mask)


@max_pool.register_fake
def _(x: Tensor, out: Tensor, *_: object) -> None:
    torch._check(x.shape[:2] == out.shape[:2], lambda: "max_pool: out must have x's channels")


@operator
def max_pool_backward(
    g: Tensor,
    index: Tensor,
    out: Tensor,
    *,
    mask: Tensor | None = None,
    slope: float = 0.0,
    other: Tensor | None = None,
    x_mask: Tensor | None = None,
    x_slope: float = 0.0,
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
) -> None:
    """The cotangent of what `max_pool` pooled; every element of out is written, without atomics.

    Args:
        g: cotangent of the pooled value, (N, C, OH, OW) in channels_last, float32 or bfloat16 (any
            dtype where the reference runs).
        index: as `max_pool` wrote it.
        out: (N, C, H, W), g's dtype and layout.
        mask: bit mask of the pooling's own activation, applied to g on load, or None.
        slope: that activation's slope.
        other: another branch's cotangent of x, added; out itself to accumulate; or None.
        x_mask: bit mask of the activation that made x, applied to the sum, or None.
        x_slope: that activation's slope.
        kernel: as for `max_pool`.
        stride: as for `max_pool`.
        padding: as for `max_pool`.
        dilation: as for `max_pool`.

    Raises:
        RuntimeError: the native operator refuses an argument; the message names it.

    Example:
        >>> x = torch.tensor([[[[1.0, 3.0], [2.0, 3.0]]]])
        >>> y, index = torch.empty(1, 1, 1, 1), torch.empty(1, 1, 2, dtype=torch.uint8)
        >>> max_pool(x, y, index, kernel=(2, 2), stride=(2, 2))
        >>> max_pool_backward(torch.ones_like(y), index, x, kernel=(2, 2), stride=(2, 2))
        >>> x.flatten().tolist()
        [0.0, 1.0, 0.0, 0.0]
        >>> g, out = torch.ones(1, 1, 1, 1), torch.empty(1, 1, 2, 2)
        >>> index = torch.tensor([[[2, 0]]], dtype=torch.uint8)
        >>> max_pool_backward.reference(g, index, out, kernel=(2, 2), stride=(2, 2))
        >>> out.flatten().tolist()
        [0.0, 0.0, 1.0, 0.0]
    """
    g = widen(g)
    n, c, rows, columns = g.shape
    height, width = out.shape[2:]
    where = unpack_index(index, g.shape)
    top = torch.arange(rows, device=g.device)[:, None] * stride[0] - padding[0]
    left = torch.arange(columns, device=g.device) * stride[1] - padding[1]
    y = top + where // kernel[1] * dilation[0]
    x = left + where % kernel[1] * dilation[1]
    flat = torch.zeros(n, c, height * width, dtype=g.dtype, device=g.device)
    flat.scatter_add_(2, (y * width + x).flatten(2), masked(g, mask, slope).flatten(2))
    backward_epilogue(flat.reshape(n, c, height, width), out, other, x_mask, x_slope)


@max_pool_backward.register_fake
def _(g: Tensor, index: Tensor, out: Tensor, *_: object) -> None:
    torch._check(g.shape[:2] == out.shape[:2], lambda: "max_pool_backward: channels must agree")


def _windows_of(
    x: Tensor, shape: torch.Size, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """Every window's values, -inf outside x: (N, C, KH · KW, OH, OW)."""
    below, right = (
        max(padding_end(*axis), 0)
        for axis in zip(x.shape[2:], shape[2:], kernel, stride, padding, dilation, strict=True)
    )
    padded = F.pad(x, (padding[1], right, padding[0], below), value=-math.inf)
    positions = []
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            top, left = i * dilation[0], j * dilation[1]
            values = padded[:, :, top :: stride[0], left :: stride[1]]
            positions.append(values[:, :, : shape[2], : shape[3]])
    return torch.stack(positions, 2)
