"""activate and pack_mask: scale, bias, residual and activation in one pass, and its bit mask."""

from __future__ import annotations

import torch
from torch import Tensor

from sign_ext.ops.activation import IDENTITY, Piecewise, mask_shape, pack_bits, widen
from sign_ext.ops.native import operator


@operator
def activate(
    x: Tensor,
    out: Tensor,
    *,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
    activation: Piecewise = IDENTITY,
) -> None:
    """Write act(scale[c] · x + bias[c] + residual) into `out`, and its bit mask into `mask`.

    The arithmetic is float32 where x is float32 or bfloat16. The bits are taken from `out` as it is
    stored, against the bounds rounded to its dtype, so bits and stored values agree. There is no
    derivative: autograd does not see what is written.

    Args:
        x: (N, C) or (N, C, H, W) in channels_last, float32 or bfloat16 (any floating dtype and
            layout where the reference runs).
        out: x's shape and dtype, or bfloat16 where x is float32. It may be x or residual.
        scale: float32, C values, or None for 1.
        bias: float32, C values, or None for 0.
        residual: x's shape, out's dtype, or None for 0.
        mask: uint8, `mask_shape(x.shape)`, contiguous, or None for no mask.
        activation: a slope that is not negative.

    Raises:
        RuntimeError: the native operator refuses an argument; the message names it.
        ValueError: the reference refuses one.

    Example:
        >>> from sign_ext.ops.activation import RELU
        >>> x, mask = torch.tensor([[-1.0, 2.0, 3.0]]), torch.empty(1, 1, dtype=torch.uint8)
        >>> activate(x, x, activation=RELU, bias=torch.tensor([0.0, 1.0, -4.0]), mask=mask)
        >>> x.tolist(), mask.tolist()
        ([[0.0, 3.0, 0.0]], [[2]])
        >>> out = torch.empty(1, 2, dtype=torch.float64)
        >>> activate.reference(torch.ones(1, 2), out, scale=torch.tensor([2.0, 3.0]))
        >>> out.tolist()
        [[2.0, 3.0]]
    """
    for name, tensor in (("out", out), ("residual", residual)):
        if tensor is not None and tensor.shape != x.shape:
            raise ValueError(f"activate: {name} must have x's shape {tuple(x.shape)}")
    v = widen(x)
    per_channel = (1, -1) + (1,) * (x.dim() - 2)
    if scale is not None:
        v = v * scale.view(per_channel)
    if bias is not None:
        v = v + bias.view(per_channel)
    if residual is not None:
        v = v + residual.to(v.dtype)
    store_activated(v, out, activation, mask)


@activate.register_fake
def _(x: Tensor, out: Tensor, *_: object) -> None:
    torch._check(out.shape == x.shape, lambda: "activate: out must have x's shape")
    torch._check(out.device == x.device, lambda: "activate: out must be on x's device")


@operator
def pack_mask(y: Tensor, mask: Tensor, activation: Piecewise) -> None:
    """Write the bit mask of an activation that a library applied.

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
        >>> pack_mask.reference(torch.tensor([[0.0, 3.0]]), mask, Piecewise(0.0, 3.0))
        >>> mask.tolist()
        [[0]]
    """
    if activation.slope < 0:
        raise ValueError("slope must not be negative: bits are read off the activation's value")
    if mask.shape != mask_shape(y.shape):
        raise ValueError(f"mask must have shape {mask_shape(y.shape)}, not {tuple(mask.shape)}")
    low, high = torch.tensor(activation[:2], dtype=torch.float64).to(y.dtype).tolist()
    mask.copy_(pack_bits(Piecewise(low, high, activation.slope).passes(y)))


@pack_mask.register_fake
def _(y: Tensor, mask: Tensor, *_: object) -> None:
    torch._check(mask.dtype == torch.uint8, lambda: "pack_mask: mask must be uint8")


def store_activated(
    v: Tensor, out: Tensor, activation: Piecewise, mask: Tensor | None = None
) -> None:
    """Write an activation's value and its bits, in plain torch: what references do last.

    Args:
        v: what goes into the activation.
        out: where its value goes, rounded to out's dtype.
        activation: the activation.
        mask: where its bits go, or None.
    """
    out.copy_(activation.apply(v))
    if mask is not None:
        pack_mask.reference(out, mask, activation)
