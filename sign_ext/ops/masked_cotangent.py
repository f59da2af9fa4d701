"""masked_cotangent: a cotangent back through an activation's bit mask and a scale, in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from sign_ext.ops.activation import Piecewise, mask_shape, unpack_bits
from sign_ext.ops.native import NATIVE, runs_natively


def masked_cotangent(
    g: Tensor,
    out: Tensor,
    *,
    mask: Tensor | None = None,
    slope: float = 0.0,
    scale: Tensor | None = None,
    other: Tensor | None = None,
) -> None:
    """Write (g + other), pulled back through the mask, times scale[c], into `out`.

    Where a bit of the mask is 0 the sum is multiplied by the slope; by a slope of 0 it becomes 0
    whatever it was. The arithmetic is float32 where g is float32 or bfloat16. There is no
    derivative: autograd does not see what is written.

    Args:
        g: the cotangent, (N, C) or (N, C, H, W) in channels_last, float32 or bfloat16 (any floating
            dtype and layout where the reference runs).
        out: g's shape and dtype. It may be g or other.
        mask: uint8, `mask_shape(g.shape)`, contiguous, from `activate` or `pack_mask`; None passes
            everything.
        slope: the derivative where a bit is 0.
        scale: float32, C values, or None for 1.
        other: another consumer's cotangent, g's shape and dtype, or None for 0.

    Raises:
        RuntimeError: the native operator refuses an argument; the message names it.
        ValueError: the reference refuses one.

    Example:
        >>> g, mask = torch.ones(1, 3), torch.tensor([[0b110]], dtype=torch.uint8)
        >>> masked_cotangent(g, g, mask=mask, scale=torch.tensor([1.0, 2.0, 3.0]))
        >>> g.tolist()
        [[0.0, 2.0, 3.0]]
    """
    if runs_natively(g):
        torch.ops.sign_ext.masked_cotangent(g, out, mask, slope, scale, other)
    else:
        masked_cotangent_reference(g, out, mask=mask, slope=slope, scale=scale, other=other)


def masked_cotangent_reference(
    g: Tensor,
    out: Tensor,
    *,
    mask: Tensor | None = None,
    slope: float = 0.0,
    scale: Tensor | None = None,
    other: Tensor | None = None,
) -> None:
    """The definition of `masked_cotangent` in plain torch, for any floating dtype and device.

    Args:
        g: as for `masked_cotangent`.
        out: as for `masked_cotangent`.
        mask: as for `masked_cotangent`.
        slope: as for `masked_cotangent`.
        scale: as for `masked_cotangent`.
        other: as for `masked_cotangent`.

    Raises:
        ValueError: a shape does not fit.

    Example:
        >>> out = torch.empty(1, 2)
        >>> masked_cotangent_reference(torch.ones(1, 2), out, other=torch.ones(1, 2))
        >>> out.tolist()
        [[2.0, 2.0]]
    """
    for name, tensor in (("out", out), ("other", other)):
        if tensor is not None and tensor.shape != g.shape:
            raise ValueError(f"masked_cotangent: {name} must have g's shape {tuple(g.shape)}")
    if mask is not None and mask.shape != mask_shape(g.shape):
        raise ValueError(f"masked_cotangent: mask must have shape {mask_shape(g.shape)}")
    v = g.float() if g.dtype in (torch.bfloat16, torch.float16) else g
    if other is not None:
        v = v + other.to(v.dtype)
    if mask is not None:
        v = Piecewise(slope=slope).pull_back(v, unpack_bits(mask, g.shape))
    if scale is not None:
        v = v * scale.view((1, -1) + (1,) * (g.dim() - 2))
    out.copy_(v)


def _fake(
    g: Tensor,
    out: Tensor,
    mask: Tensor | None,
    slope: float,
    scale: Tensor | None,
    other: Tensor | None,
) -> None:
    """The operator for tensors without data: it makes nothing, it only refuses."""
    torch._check(out.shape == g.shape, lambda: "masked_cotangent: out must have g's shape")
    torch._check(out.device == g.device, lambda: "masked_cotangent: out must be on g's device")


if NATIVE.loaded:
    torch.library.register_fake("sign_ext::masked_cotangent", _fake)
