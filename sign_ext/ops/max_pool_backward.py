"""max_pool_backward: each window's cotangent at the position that won."""

from __future__ import annotations

import torch
from torch import Tensor

from sign_ext.ops.epilogue import finish, masked
from sign_ext.ops.max_pool import Pair, unpack_index
from sign_ext.ops.native import NATIVE
from sign_ext.ops.route import runs_natively


def max_pool_backward(
    g: Tensor,
    index: Tensor,
    out: Tensor,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    mask: Tensor | None = None,
    slope: float = 0.0,
    other: Tensor | None = None,
    x_mask: Tensor | None = None,
    x_slope: float = 0.0,
) -> None:
    """The cotangent of what `max_pool` pooled; every element of out is written, without atomics.

    Args:
        g: cotangent of the pooled value, (N, C, OH, OW) in channels_last, float32 or bfloat16 (any
            dtype where the reference runs).
        index: as `max_pool` left it.
        out: (N, C, H, W), g's dtype and layout.
        kernel: as for `max_pool`.
        stride: as for `max_pool`.
        padding: as for `max_pool`.
        dilation: as for `max_pool`.
        mask: bit mask of the pooling's own activation, applied to g on load, or None.
        slope: that activation's slope.
        other: another branch's cotangent of x, added; out itself to accumulate; or None.
        x_mask: bit mask of the activation that made x, applied to the sum, or None.
        x_slope: that activation's slope.

    Raises:
        RuntimeError: the native operator refuses an argument; the message names it.

    Example:
        >>> from sign_ext.ops.max_pool import max_pool
        >>> x = torch.tensor([[[[1.0, 3.0], [2.0, 3.0]]]])
        >>> y, index = torch.empty(1, 1, 1, 1), torch.empty(1, 1, 2, dtype=torch.uint8)
        >>> max_pool(x, y, index, kernel=(2, 2), stride=(2, 2))
        >>> max_pool_backward(torch.ones_like(y), index, x, kernel=(2, 2), stride=(2, 2))
        >>> x.flatten().tolist()
        [0.0, 1.0, 0.0, 0.0]
    """
    if runs_natively(g):
        torch.ops.sign_ext.max_pool_backward(
            g,
            index,
            out,
            mask,
            slope,
            other,
            x_mask,
            x_slope,
            *kernel,
            *stride,
            *padding,
            *dilation,
        )
    else:
        max_pool_backward_reference(
            g,
            index,
            out,
            kernel=kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            mask=mask,
            slope=slope,
            other=other,
            x_mask=x_mask,
            x_slope=x_slope,
        )


def max_pool_backward_reference(
    g: Tensor,
    index: Tensor,
    out: Tensor,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    mask: Tensor | None = None,
    slope: float = 0.0,
    other: Tensor | None = None,
    x_mask: Tensor | None = None,
    x_slope: float = 0.0,
) -> None:
    """The definition of `max_pool_backward` in plain torch, for any floating dtype and device.

    Args:
        g: as for `max_pool_backward`.
        index: as for `max_pool_backward`.
        out: as for `max_pool_backward`.
        kernel: as for `max_pool`.
        stride: as for `max_pool`.
        padding: as for `max_pool`.
        dilation: as for `max_pool`.
        mask: as for `max_pool_backward`.
        slope: as for `max_pool_backward`.
        other: as for `max_pool_backward`.
        x_mask: as for `max_pool_backward`.
        x_slope: as for `max_pool_backward`.

    Example:
        >>> g, out = torch.ones(1, 1, 1, 1), torch.empty(1, 1, 2, 2)
        >>> index = torch.tensor([[[2, 0]]], dtype=torch.uint8)
        >>> max_pool_backward_reference(g, index, out, kernel=(2, 2), stride=(2, 2))
        >>> out.flatten().tolist()
        [0.0, 0.0, 1.0, 0.0]
    """
    g = g.to(torch.promote_types(g.dtype, torch.float32))
    n, c, rows, columns = g.shape
    height, width = out.shape[2:]
    where = unpack_index(index, g.shape)
    top = torch.arange(rows, device=g.device)[:, None] * stride[0] - padding[0]
    left = torch.arange(columns, device=g.device) * stride[1] - padding[1]
    y = top + where // kernel[1] * dilation[0]
    x = left + where % kernel[1] * dilation[1]
    flat = torch.zeros(n, c, height * width, dtype=g.dtype, device=g.device)
    flat.scatter_add_(2, (y * width + x).flatten(2), masked(g, mask, slope).flatten(2))
    finish(flat.reshape(n, c, height, width), out, other, x_mask, x_slope)


def _fake_backward(g: Tensor, index: Tensor, out: Tensor, *_: object) -> None:
    """The operator for tensors without data: it makes nothing, it only refuses."""
    torch._check(g.shape[:2] == out.shape[:2], lambda: "max_pool_backward: channels must agree")


if NATIVE.loaded:
    torch.library.register_fake("sign_ext::max_pool_backward", _fake_backward)
