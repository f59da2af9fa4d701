"""average_pool_backward: each window's cotangent spread over its positions."""

from __future__ import annotations

import torch
from torch import Tensor

from sign_ext.ops.activation import backward_epilogue, widen
from sign_ext.ops.layout import Pair
from sign_ext.ops.native import operator


@operator
def average_pool_backward(
    g: Tensor,
    out: Tensor,
    *,
    other: Tensor | None = None,
    x_mask: Tensor | None = None,
    x_slope: float = 0.0,
    count_include_pad: bool = True,
    divisor: int | None = None,
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
) -> None:
    """The cotangent of what `torch.nn.functional.avg_pool2d` pooled; every element is written once.

    Args:
        g: cotangent of the means, (N, C, OH, OW) in channels_last, float32 or bfloat16 (any dtype
            where the reference runs).
        out: (N, C, H, W), g's dtype and layout.
        other: another branch's cotangent of x, added; out itself to accumulate; or None.
        x_mask: bit mask of the activation that made x, applied to the sum, or None.
        x_slope: that activation's slope.
        count_include_pad: whether the divisor counts the padding.
        divisor: what divided the sums instead of the window's size, not 0; or None.
        kernel: (KH, KW); the image's size for global pooling.
        stride: (vertical, horizontal).
        padding: zeros on each side (vertical, horizontal). With ceil_mode g is larger, and its
            windows are clipped as torch clips them.

    Raises:
        RuntimeError: the native operator refuses an argument; the message names it.
        ValueError: the reference refuses one.

    Example:
        >>> g, out = torch.ones(1, 1, 1, 1), torch.empty(1, 1, 2, 2)
        >>> average_pool_backward(g, out, kernel=(2, 2), stride=(2, 2))
        >>> out.flatten().tolist()
        [0.25, 0.25, 0.25, 0.25]
        >>> g, out = torch.ones(1, 1, 1, 2), torch.empty(1, 1, 1, 3)
        >>> average_pool_backward.reference(g, out, kernel=(1, 2), stride=(1, 1))
        >>> out.flatten().tolist()
        [0.5, 1.0, 0.5]
    """
    if divisor == 0:
        raise ValueError("average_pool_backward: divisor must not be 0; None takes the window's")
    g = widen(g)
    axes = list(zip(out.shape[2:], g.shape[2:], kernel, stride, padding, strict=True))
    rows, columns = (
        torch.tensor(_counts(*axis, count_include_pad), dtype=g.dtype, device=g.device)
        for axis in axes
    )
    shares = g / (rows[:, None] * columns if divisor is None else float(divisor))
    value = torch.zeros(out.shape, dtype=g.dtype, device=g.device)
    for kh in range(kernel[0]):
        oh, ih = _seen(*axes[0], kh, g.device)
        for kw in range(kernel[1]):
            ow, iw = _seen(*axes[1], kw, g.device)
            value[:, :, ih[:, None], iw] += shares[:, :, oh[:, None], ow]
    backward_epilogue(value, out, other, x_mask, x_slope)


@average_pool_backward.register_fake
def _(g: Tensor, out: Tensor, *_: object) -> None:
    torch._check(g.shape[:2] == out.shape[:2], lambda: "average_pool_backward: channels must agree")


def _counts(
    size: int, out: int, kernel: int, stride: int, padding: int, include: bool
) -> list[int]:
    """Each window's share of the divisor along one axis, as ATen counts it."""
    counts = []
    for i in range(out):
        start = i * stride - padding
        end = min(start + kernel, size + padding)
        counts.append(end - start if include else min(end, size) - max(start, 0))
    return counts


def _seen(
    size: int, out: int, kernel: int, stride: int, padding: int, k: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The windows whose position k lies in the image, and which position of the image that is."""
    windows = torch.arange(out, device=device)
    positions = windows * stride - padding + k
    inside = (positions >= 0) & (positions < size)
    return windows[inside], positions[inside]
