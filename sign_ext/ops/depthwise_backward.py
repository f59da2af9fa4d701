"""depthwise_backward: the cotangent of a depthwise convolution's input."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.ops.depthwise import Pair
from sign_ext.ops.epilogue import finish, masked
from sign_ext.ops.native import NATIVE
from sign_ext.ops.route import runs_natively


def depthwise_backward(
    g: Tensor,
    weight: Tensor,
    out: Tensor,
    *,
    mask: Tensor | None = None,
    slope: float = 0.0,
    other: Tensor | None = None,
    x_mask: Tensor | None = None,
    x_slope: float = 0.0,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
) -> None:
    """The cotangent of what `depthwise` convolved.

    out = pull_back(value + other, x_mask, x_slope), where value sums the cotangents of all windows
    that see a pixel, pulled back through `mask` and times their weights. The arithmetic is float32
    where g is float32 or bfloat16. There is no derivative: autograd does not see what is written.

    Args:
        g: cotangent of the convolution's value, (N, C, OH, OW) in channels_last, float32 or
            bfloat16 (any dtype where the reference runs).
        weight: (KH, KW, C) float32, as for `depthwise`.
        out: (N, C, H, W), g's dtype and layout, apart from g.
        mask: bit mask of the convolution's own activation, applied to g on load, or None.
        slope: that activation's slope.
        other: another branch's cotangent of x, added; out itself to accumulate; or None.
        x_mask: bit mask of the activation that made x, applied to the sum, or None.
        x_slope: that activation's slope.
        stride: as for `depthwise`.
        padding: as for `depthwise`.
        dilation: as for `depthwise`.

    Raises:
        RuntimeError: the native operator refuses an argument; the message names it.
        ValueError: the reference refuses one.

    Example:
        >>> g, out = torch.ones(1, 1, 1, 3), torch.empty(1, 1, 1, 3)
        >>> depthwise_backward(g, torch.tensor([[[1.0], [2.0], [4.0]]]), out, padding=(0, 1))
        >>> out.flatten().tolist()
        [3.0, 7.0, 6.0]
    """
    if runs_natively(g):
        torch.ops.sign_ext.depthwise_backward(
            g,
            weight,
            out,
            mask,
            slope,
            other,
            x_mask,
            x_slope,
            *stride,
            *padding,
            *dilation,
        )
    else:
        depthwise_backward_reference(
            g,
            weight,
            out,
            mask=mask,
            slope=slope,
            other=other,
            x_mask=x_mask,
            x_slope=x_slope,
            stride=stride,
            padding=padding,
            dilation=dilation,
        )


def depthwise_backward_reference(
    g: Tensor,
    weight: Tensor,
    out: Tensor,
    *,
    mask: Tensor | None = None,
    slope: float = 0.0,
    other: Tensor | None = None,
    x_mask: Tensor | None = None,
    x_slope: float = 0.0,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
) -> None:
    """The definition of `depthwise_backward` in plain torch, for any floating dtype and device.

    Args:
        g: as for `depthwise_backward`.
        weight: as for `depthwise_backward`.
        out: as for `depthwise_backward`.
        mask: as for `depthwise_backward`.
        slope: as for `depthwise_backward`.
        other: as for `depthwise_backward`.
        x_mask: as for `depthwise_backward`.
        x_slope: as for `depthwise_backward`.
        stride: as for `depthwise`.
        padding: as for `depthwise`.
        dilation: as for `depthwise`.

    Raises:
        ValueError: a shape does not fit.

    Example:
        >>> g, out = torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 4)
        >>> weight = torch.tensor([[[1.0], [2.0]]])
        >>> depthwise_backward_reference(g, weight, out, other=out, stride=(1, 2))
        >>> out.flatten().tolist()
        [2.0, 3.0, 2.0, 3.0]
    """
    if g.shape[:2] != out.shape[:2] or weight.shape[2] != g.shape[1]:
        raise ValueError("depthwise_backward: g, out and weight must have the same channels")
    wide = g.float() if g.dtype in (torch.bfloat16, torch.float16) else g
    filters = weight.to(wide.dtype).permute(2, 0, 1)[:, None]
    reached = F.conv_transpose2d(
        masked(wide, mask, slope), filters, stride=stride, groups=g.shape[1], dilation=dilation
    )
    # From the padding in front on; cut, or filled up with zeros, to the image.
    below, right = (
        size + before - reach
        for size, before, reach in zip(out.shape[2:], padding, reached.shape[2:], strict=True)
    )
    value = F.pad(reached, (-padding[1], right, -padding[0], below))
    finish(value, out, other, x_mask, x_slope)


def _fake_backward(g: Tensor, weight: Tensor, out: Tensor, *_: object) -> None:
    """The operator for tensors without data: it makes nothing, it only refuses."""
    torch._check(
        g.shape[:2] == out.shape[:2],
        lambda: "depthwise_backward: g must have out's batch size, channels, dtype and device",
    )


if NATIVE.loaded:
    torch.library.register_fake("sign_ext::depthwise_backward", _fake_backward)
