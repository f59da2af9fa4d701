"""position_sums and gate: the passes over an image that squeeze-and-excitation makes."""

from __future__ import annotations

import torch
from torch import Tensor

from sign_ext.ops.activation import widen
from sign_ext.ops.native import operator


@operator
def position_sums(x: Tensor, out: Tensor, *, y: Tensor | None = None, factor: float = 1.0) -> None:
    """Write factor · Σ over positions of x · y into `out`, a number for each channel of an image.

    Args:
        x: (N, C, H, W) in channels_last, float32 or bfloat16 (any floating dtype and layout where
            the reference runs).
        out: N · C values, contiguous, float32 (float64 where x is).
        y: x's shape and dtype, or None for 1.
        factor: 1 / (H · W) for the mean.

    Raises:
        RuntimeError: the native operator refuses an argument; the message names it.
        ValueError: the reference refuses one.

    Example:
        >>> x, out = torch.ones(1, 2, 3, 3), torch.empty(1, 2)
        >>> x = x.contiguous(memory_format=torch.channels_last)
        >>> position_sums(x, out, y=2 * x, factor=0.5)
        >>> out.tolist()
        [[9.0, 9.0]]
        >>> out = torch.empty(1, 2, dtype=torch.float64)
        >>> position_sums.reference(x.double(), out)
        >>> out.tolist()
        [[9.0, 9.0]]
    """
    if out.numel() != x.shape[0] * x.shape[1]:
        raise ValueError(f"position_sums: out must have {x.shape[0] * x.shape[1]} elements")
    v = widen(x)
    if y is not None:
        v = v * y
    out.copy_((v.sum((2, 3)) * factor).view(out.shape))


@position_sums.register_fake
def _(x: Tensor, out: Tensor, *_: object) -> None:
    torch._check(x.dim() == 4, lambda: "position_sums: x must be (N, C, H, W)")
    torch._check(out.device == x.device, lambda: "position_sums: out must be on x's device")


@operator
def gate(x: Tensor, out: Tensor, scale: Tensor, *, shift: Tensor | None = None) -> None:
    """Write x · scale[n, c] + shift[n, c] into `out`.

    Args:
        x: (N, C, H, W) in channels_last, float32 or bfloat16 (any floating dtype and layout where
            the reference runs).
        out: x's shape and dtype. It may be x.
        scale: N · C values, contiguous, float32 (float64 where x is).
        shift: the same, or None for 0.

    Raises:
        RuntimeError: the native operator refuses an argument; the message names it.
        ValueError: the reference refuses one.

    Example:
        >>> x = torch.ones(1, 2, 1, 1)
        >>> gate(x, x, torch.tensor([[2.0, 3.0]]), shift=torch.tensor([[0.0, 1.0]]))
        >>> x.flatten().tolist()
        [2.0, 4.0]
        >>> x = torch.ones(1, 2, 1, 1, dtype=torch.float64)
        >>> gate.reference(x, x, torch.tensor([[2.0, 3.0]]))
        >>> x.flatten().tolist()
        [2.0, 3.0]
    """
    if out.shape != x.shape:
        raise ValueError(f"gate: out must have x's shape {tuple(x.shape)}")
    constant = (*x.shape[:2], 1, 1)
    v = widen(x) * scale.view(constant)
    out.copy_(v if shift is None else v + shift.view(constant))


@gate.register_fake
def _(x: Tensor, out: Tensor, *_: object) -> None:
    torch._check(out.shape == x.shape, lambda: "gate: out must have x's shape")
    torch._check(out.device == x.device, lambda: "gate: out must be on x's device")
