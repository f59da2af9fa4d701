"""depthwise: a convolution of each channel by itself; bias, activation and bits in one pass."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.ops.activate import pack_mask_reference
from sign_ext.ops.activation import IDENTITY, Piecewise, finish, masked
from sign_ext.ops.native import NATIVE, runs_natively

Pair = tuple[int, int]


def depthwise(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    *,
    bias: Tensor | None = None,
    activation: Piecewise = IDENTITY,
    mask: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
) -> None:
    """activation(bias + each channel's own convolution), and the activation's bits.

    The arithmetic is float32 where x is float32 or bfloat16. The bits are taken from `out` as it is
    stored, against the bounds rounded to its dtype, so bits and stored values agree. There is no
    derivative: autograd does not see what is written.

    Args:
        x: (N, C, H, W) in channels_last, float32 or bfloat16 (any dtype where the reference runs).
        weight: (KH, KW, C) float32, C innermost.
        out: (N, C, OH, OW), x's dtype and layout, apart from x. Its size says how far the windows
            go; what they see outside x is zero. Padding behind may so differ from that in front.
        bias: (C,) float32, or None.
        activation: applied last; a slope that is not negative.
        mask: uint8, `mask_shape(out.shape)`, for the activation's bits, or None.
        stride: (vertical, horizontal).
        padding: zeros in front (top, left).
        dilation: (vertical, horizontal).

    Raises:
        RuntimeError: the native operator refuses an argument; the message names it.
        ValueError: the reference refuses one.

    Example:
        >>> x, y = torch.ones(1, 1, 1, 3), torch.empty(1, 1, 1, 3)
        >>> depthwise(x, torch.ones(1, 3, 1), y, padding=(0, 1))
        >>> y.flatten().tolist()
        [2.0, 3.0, 2.0]
    """
    if runs_natively(x):
        torch.ops.sign_ext.depthwise(
            x, weight, out, bias, mask, *activation, *stride, *padding, *dilation
        )
    else:
        depthwise_reference(
            x,
            weight,
            out,
            bias=bias,
            activation=activation,
            mask=mask,
            stride=stride,
            padding=padding,
            dilation=dilation,
        )


def behind(x: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Zeros that windows see behind an axis, negative where they end before it.

    Args:
        x: the axis' size.
        out: number of windows.
        kernel: positions of a window.
        stride: between windows.
        padding: in front.
        dilation: between positions.
    """
    return (out - 1) * stride + dilation * (kernel - 1) + 1 - x - padding


def depthwise_reference(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    *,
    bias: Tensor | None = None,
    activation: Piecewise = IDENTITY,
    mask: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
) -> None:
    """The definition of `depthwise` in plain torch, for any floating dtype and device.

    Args:
        x: as for `depthwise`.
        weight: as for `depthwise`.
        out: as for `depthwise`.
        bias: as for `depthwise`.
        activation: as for `depthwise`.
        mask: as for `depthwise`.
        stride: as for `depthwise`.
        padding: as for `depthwise`.
        dilation: as for `depthwise`.

    Raises:
        ValueError: a shape does not fit, or the slope is negative.

    Example:
        >>> y = torch.empty(1, 1, 1, 2, dtype=torch.float64)
        >>> depthwise_reference(torch.ones(1, 1, 1, 4), torch.ones(1, 2, 1), y, stride=(1, 2))
        >>> y.flatten().tolist()
        [2.0, 2.0]
    """
    if x.shape[:2] != out.shape[:2] or weight.shape[2] != x.shape[1]:
        raise ValueError("depthwise: x, out and weight must have the same channels")
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    filters = weight.to(wide.dtype).permute(2, 0, 1)[:, None]
    below, right = (
        behind(*axis)
        for axis in zip(
            x.shape[2:], out.shape[2:], weight.shape[:2], stride, padding, dilation, strict=True
        )
    )
    value = F.conv2d(
        F.pad(wide, (padding[1], right, padding[0], below)),
        filters,
        None if bias is None else bias.to(wide.dtype),
        stride,
        dilation=dilation,
        groups=x.shape[1],
    )
    out.copy_(activation.apply(value))
    if mask is not None:
        pack_mask_reference(out, mask, activation)


def _fake(x: Tensor, weight: Tensor, out: Tensor, *_: object) -> None:
    """The operator for tensors without data: it makes nothing, it only refuses."""
    torch._check(
        x.shape[:2] == out.shape[:2],
        lambda: "depthwise: out must have x's batch size, channels, dtype and device",
    )


if NATIVE.loaded:
    torch.library.register_fake("sign_ext::depthwise", _fake)


# depthwise_backward: the cotangent of a depthwise convolution's input.


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
