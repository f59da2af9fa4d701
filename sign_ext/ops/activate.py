"""activate: scale, bias, residual and activation in one pass, and the activation's bit mask."""

from __future__ import annotations

import torch
from torch import Tensor

from sign_ext.ops.activation import IDENTITY, Piecewise, mask_shape, pack_bits
from sign_ext.ops.native import NATIVE, runs_natively


def activate(
    x: Tensor,
    out: Tensor,
    *,
    activation: Piecewise = IDENTITY,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
) -> None:
    """Write act(scale[c] · x + bias[c] + residual) into `out`, and its bit mask into `mask`.

    The arithmetic is float32 where x is float32 or bfloat16. The bits are taken from `out` as it is
    stored, against the bounds rounded to its dtype, so bits and stored values agree. There is no
    derivative: autograd does not see what is written.

    Args:
        x: (N, C) or (N, C, H, W) in channels_last, float32 or bfloat16 (any floating dtype and
            layout where the reference runs).
        out: x's shape and dtype, or bfloat16 where x is float32. It may be x or residual.
        activation: a slope that is not negative.
        scale: float32, C values, or None for 1.
        bias: float32, C values, or None for 0.
        residual: x's shape, out's dtype, or None for 0.
        mask: uint8, `mask_shape(x.shape)`, contiguous, or None for no mask.

    Raises:
        RuntimeError: the native operator refuses an argument; the message names it.
        ValueError: the reference refuses one.

    Example:
        >>> from sign_ext.ops.activation import RELU
        >>> x, mask = torch.tensor([[-1.0, 2.0, 3.0]]), torch.empty(1, 1, dtype=torch.uint8)
        >>> activate(x, x, activation=RELU, bias=torch.tensor([0.0, 1.0, -4.0]), mask=mask)
        >>> x.tolist(), mask.tolist()
        ([[0.0, 3.0, 0.0]], [[2]])
    """
    if runs_natively(x):
        torch.ops.sign_ext.activate(x, out, scale, bias, residual, mask, *activation)
    else:
        activate_reference(
            x, out, activation=activation, scale=scale, bias=bias, residual=residual, mask=mask
        )


def pack_mask(y: Tensor, mask: Tensor, activation: Piecewise) -> None:
    """Write the bit mask of an activation that a library has applied.

    Args:
        y: the activation's value, (N, C) or (N, C, H, W) in channels_last, float32 or bfloat16 (any
            floating dtype and layout where the reference runs).
        mask: uint8, `mask_shape(y.shape)`, contiguous.
        activation: a slope that is not negative. Its bounds are rounded to y's dtype.

    Raises:
        RuntimeError: the native operator refuses an argument; the message names it.
        ValueError: the reference refuses one.

    Example:
        >>> from sign_ext.ops.activation import RELU
        >>> mask = torch.empty(1, 1, dtype=torch.uint8)
        >>> pack_mask(torch.tensor([[0.0, 3.0, 0.5]]), mask, RELU)
        >>> mask.tolist()
        [[6]]
    """
    if runs_natively(y):
        torch.ops.sign_ext.pack_mask(y, mask, *activation)
    else:
        pack_mask_reference(y, mask, activation)


def activate_reference(
    x: Tensor,
    out: Tensor,
    *,
    activation: Piecewise = IDENTITY,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
) -> None:
    """The definition of `activate` in plain torch, for any floating dtype, device and layout.

    Args:
        x: as for `activate`.
        out: as for `activate`.
        activation: as for `activate`.
        scale: as for `activate`.
        bias: as for `activate`.
        residual: as for `activate`.
        mask: as for `activate`.

    Raises:
        ValueError: a shape does not fit, or the slope is negative.

    Example:
        >>> out = torch.empty(1, 2, dtype=torch.float64)
        >>> activate_reference(torch.ones(1, 2), out, scale=torch.tensor([2.0, 3.0]))
        >>> out.tolist()
        [[2.0, 3.0]]
    """
    for name, tensor in (("out", out), ("residual", residual)):
        if tensor is not None and tensor.shape != x.shape:
            raise ValueError(f"activate: {name} must have x's shape {tuple(x.shape)}")
    v = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    per_channel = (1, -1) + (1,) * (x.dim() - 2)
    if scale is not None:
        v = v * scale.view(per_channel)
    if bias is not None:
        v = v + bias.view(per_channel)
    if residual is not None:
        v = v + residual.to(v.dtype)
    out.copy_(activation.apply(v))
    if mask is not None:
        pack_mask_reference(out, mask, activation)


def pack_mask_reference(y: Tensor, mask: Tensor, activation: Piecewise) -> None:
    """The definition of `pack_mask` in plain torch.

    Args:
        y: as for `pack_mask`.
        mask: as for `pack_mask`.
        activation: as for `pack_mask`.

    Raises:
        ValueError: the mask's shape does not fit, or the slope is negative.

    Example:
        >>> mask = torch.empty(1, 1, dtype=torch.uint8)
        >>> pack_mask_reference(torch.tensor([[0.0, 3.0]]), mask, Piecewise(0.0, 3.0))
        >>> mask.tolist()
        [[0]]
    """
    if activation.slope < 0:
        raise ValueError("slope must not be negative: bits are read off the activation's value")
    if mask.shape != mask_shape(y.shape):
        raise ValueError(f"mask must have shape {mask_shape(y.shape)}, not {tuple(mask.shape)}")
    low, high = torch.tensor(activation[:2], dtype=torch.float64).to(y.dtype).tolist()
    mask.copy_(pack_bits(Piecewise(low, high, activation.slope).passes(y)))


def _fake_activate(
    x: Tensor,
    out: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    mask: Tensor | None,
    low: float,
    high: float,
    slope: float,
) -> None:
    """The operator for tensors without data: it makes nothing, it only refuses."""
    torch._check(out.shape == x.shape, lambda: "activate: out must have x's shape")
    torch._check(out.device == x.device, lambda: "activate: out must be on x's device")


def _fake_pack_mask(y: Tensor, mask: Tensor, low: float, high: float, slope: float) -> None:
    torch._check(mask.dtype == torch.uint8, lambda: "pack_mask: mask must be uint8")


if NATIVE.loaded:
    torch.library.register_fake("sign_ext::activate", _fake_activate)
    torch.library.register_fake("sign_ext::pack_mask", _fake_pack_mask)
