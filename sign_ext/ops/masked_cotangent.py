"""masked_cotangent: a cotangent back through an activation's bit mask and a scale, in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from sign_ext.ops.activation import masked, widen
from sign_ext.ops.native import operator


@operator
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

    Where a bit of the mask is 0 the sum is multiplied by the slope; with a slope of 0 it becomes 0
    even if it was NaN. The arithmetic is float32 where g is float32 or bfloat16. There is no
    derivative: autograd does not see what is written.

    Args:
        g: the cotangent, (N, C) or (N, C, H, W) in channels_last, float32 or bfloat16 (any floating
            dtype and layout where the reference runs).
        out: g's shape and dtype. It may be g or other.
        mask: uint8, `mask_shape(g.shape)`, contiguous, from `activate` or `pack_mask`; None passes
            everything.
        slope: the derivative where a bit is 0.
        scale: float32, C values, or None for 1.
        other: another branch's cotangent, g's shape and dtype, or None for 0.

    Raises:
        RuntimeError: the native operator refuses an argument; the message names it.
        ValueError: the reference refuses one.

    Example:
        >>> g, mask = torch.ones(1, 3), torch.tensor([[0b110]], dtype=torch.uint8)
        >>> masked_cotangent(g, g, mask=mask, scale=torch.tensor([1.0, 2.0, 3.0]))
        >>> g.tolist()
        [[0.0, 2.0, 3.0]]
        >>> out = torch.empty(1, 2)
        >>> masked_cotangent.reference(torch.ones(1, 2), out, other=torch.ones(1, 2))
        >>> out.tolist()
        [[2.0, 2.0]]
    """
    for name, tensor in (("out", out), ("other", other)):
        if tensor is not None and tensor.shape != g.shape:
            raise ValueError(f"masked_cotangent: {name} must have g's shape {tuple(g.shape)}")
    v = widen(g)
    if other is not None:
        v = v + other.to(v.dtype)
    v = masked(v, mask, slope)
    if scale is not None:
        v = v * scale.view((1, -1) + (1,) * (g.dim() - 2))
    out.copy_(v)


@masked_cotangent.register_fake
def _(g: Tensor, out: Tensor, *_: object) -> None:
    torch._check(out.shape == g.shape, lambda: "masked_cotangent: out must have g's shape")
    torch._check(out.device == g.device, lambda: "masked_cotangent: out must be on g's device")
