"""average_pool_backward: each window's cotangent spread over its positions."""

from __future__ import annotations

import torch
from torch import Tensor

from sign_ext.ops.activation import finish
from sign_ext.ops.native import NATIVE, runs_natively

Pair = tuple[int, int]


def average_pool_backward(
    g: Tensor,
    out: Tensor,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    count_include_pad: bool = True,
    divisor: int | None = None,
    other: Tensor | None = None,
    x_mask: Tensor | None = None,
    x_slope: float = 0.0,
) -> None:
    """The cotangent of what `torch.nn.functional.avg_pool2d` pooled; every element is written once.

    Args:
        g: cotangent of the means, (N, C, OH, OW) in channels_last, float32 or bfloat16 (any dtype
            where the reference runs).
        out: (N, C, H, W), g's dtype and layout.
        kernel: (KH, KW); the image's size for global pooling.
        stride: (vertical, horizontal).
        padding: zeros in front (top, left) and behind; ceil_mode is g's size, its windows are
            clipped as torch clips them.
        count_include_pad: whether the divisor counts the padding.
        divisor: what was divided by instead of the window's size, not 0, or None.
        other: another branch's cotangent of x, added; out itself to accumulate; or None.
        x_mask: bit mask of the activation that made x, applied to the sum, or None.
        x_slope: that activation's slope.

    Raises:
        RuntimeError: the native operator refuses an argument; the message names it.
        ValueError: divisor is 0.

    Example:
        >>> g, out = torch.ones(1, 1, 1, 1), torch.empty(1, 1, 2, 2)
        >>> average_pool_backward(g, out, kernel=(2, 2), stride=(2, 2))
        >>> out.flatten().tolist()
        [0.25, 0.25, 0.25, 0.25]
    """
    if divisor == 0:
        raise ValueError("average_pool_backward: divisor must not be 0; None takes the window's")
    if runs_natively(g):
        torch.ops.sign_ext.average_pool_backward(
            g,
            out,
            other,
            x_mask,
            x_slope,
            count_include_pad,
            0 if divisor is None else divisor,
            *kernel,
            *stride,
            *padding,
        )
    else:
        average_pool_backward_reference(
            g,
            out,
            kernel=kernel,
            stride=stride,
            padding=padding,
            count_include_pad=count_include_pad,
            divisor=divisor,
            other=other,
            x_mask=x_mask,
            x_slope=x_slope,
        )


def _counts(
    size: int, out: int, kernel: int, stride: int, padding: int, include: bool
) -> list[int]:
    """Each window's share of the divisor along one axis, as ATen counts it."""
    found = []
    for i in range(out):
        start = i * stride - padding
        end = min(start + kernel, size + padding)
        found.append(end - start if include else min(end, size) - max(start, 0))
    return found


def _seen(
    size: int, out: int, kernel: int, stride: int, padding: int, k: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The windows whose position k lies in the image, and which position of the image that is."""
    windows = torch.arange(out, device=device)
    positions = windows * stride - padding + k
    inside = (positions >= 0) & (positions < size)
    return windows[inside], positions[inside]


def average_pool_backward_reference(
    g: Tensor,
    out: Tensor,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    count_include_pad: bool = True,
    divisor: int | None = None,
    other: Tensor | None = None,
    x_mask: Tensor | None = None,
    x_slope: float = 0.0,
) -> None:
    """The definition of `average_pool_backward` in plain torch, for any floating dtype and device.

    Args:
        g: as for `average_pool_backward`.
        out: as for `average_pool_backward`.
        kernel: as for `average_pool_backward`.
        stride: as for `average_pool_backward`.
        padding: as for `average_pool_backward`.
        count_include_pad: as for `average_pool_backward`.
        divisor: as for `average_pool_backward`.
        other: as for `average_pool_backward`.
        x_mask: as for `average_pool_backward`.
        x_slope: as for `average_pool_backward`.

    Example:
        >>> g, out = torch.ones(1, 1, 1, 2), torch.empty(1, 1, 1, 3)
        >>> average_pool_backward_reference(g, out, kernel=(1, 2), stride=(1, 1))
        >>> out.flatten().tolist()
        [0.5, 1.0, 0.5]
    """
    g = g.to(torch.promote_types(g.dtype, torch.float32))
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
    finish(value, out, other, x_mask, x_slope)


def _fake(g: Tensor, out: Tensor, *_: object) -> None:
    """The operator for tensors without data: it makes nothing, it only refuses."""
    torch._check(g.shape[:2] == out.shape[:2], lambda: "average_pool_backward: channels must agree")


if NATIVE.loaded:
    torch.library.register_fake("sign_ext::average_pool_backward", _fake)
