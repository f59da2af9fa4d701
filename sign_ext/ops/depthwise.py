"""depthwise and depthwise_backward: a convolution of each channel by itself.

Forward it applies bias and activation and writes the activation's bits in the same pass; backward
it reads them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.ops.activate import store_activated
from sign_ext.ops.activation import IDENTITY, Piecewise, backward_epilogue, masked, widen
from sign_ext.ops.layout import Pair, padding_end
from sign_ext.ops.native import operator


@operator
def depthwise(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    *,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    activation: Piecewise = IDENTITY,
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
        out: (N, C, OH, OW), x's dtype and layout, not overlapping x. Its size says how far the
            windows go; what they see outside x is zero. So the padding at the
            end of an axis may differ from that at its start.
        bias: (C,) float32, or None.
        mask: uint8, `mask_shape(out.shape)`, for the activation's bits, or None.
        activation: applied last; a slope that is not negative.
        stride: (vertical, horizontal).
        padding: zeros before each axis (top, left).
        dilation: (vertical, horizontal).

    Raises:
        RuntimeError: the native operator refuses an argument; the message names it.
        ValueError: the reference refuses one.

    Example:
        >>> x, y = torch.ones(1, 1, 1, 3), torch.empty(1, 1, 1, 3)
        >>> depthwise(x, torch.ones(1, 3, 1), y, padding=(0, 1))
        >>> y.flatten().tolist()
        [2.0, 3.0, 2.0]
        >>> y = torch.empty(1, 1, 1, 2, dtype=torch.float64)
        >>> depthwise.reference(torch.ones(1, 1, 1, 4), torch.ones(1, 2, 1), y, stride=(1, 2))
        >>> y.flatten().tolist()
        [2.0, 2.0]
    """
    if x.shape[:2] != out.shape[:2] or weight.shape[2] != x.shape[1]:
        raise ValueError("depthwise: x, out and weight must have the same channels")
    value = convolve_channels(widen(x), weight, out.shape[2:], bias, stride, padding, dilation)
    store_activated(value, out, activation, mask)


@depthwise.register_fake
def _(x: Tensor, weight: Tensor, out: Tensor, *_: object) -> None:
    torch._check(
        x.shape[:2] == out.shape[:2],
        lambda: "depthwise: out must have x's batch size, channels, dtype and device",
    )


@operator
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
        out: (N, C, H, W), g's dtype and layout, not overlapping g.
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
        >>> g, out = torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 4)
        >>> weight = torch.tensor([[[1.0], [2.0]]])
        >>> depthwise_backward.reference(g, weight, out, other=out, stride=(1, 2))
        >>> out.flatten().tolist()
        [2.0, 3.0, 2.0, 3.0]
    """
    if g.shape[:2] != out.shape[:2] or weight.shape[2] != g.shape[1]:
        raise ValueError("depthwise_backward: g, out and weight must have the same channels")
    wide = widen(g)
    filters = weight.to(wide.dtype).permute(2, 0, 1)[:, None]
    reached = F.conv_transpose2d(
        masked(wide, mask, slope), filters, stride=stride, groups=g.shape[1], dilation=dilation
    )
    # It begins at the padding before the image. Cut it, or fill it up with zeros, to the image.
    below, right = (
        size + before - reach
        for size, before, reach in zip(out.shape[2:], padding, reached.shape[2:], strict=True)
    )
    value = F.pad(reached, (-padding[1], right, -padding[0], below))
    backward_epilogue(value, out, other, x_mask, x_slope)


@depthwise_backward.register_fake
def _(g: Tensor, weight: Tensor, out: Tensor, *_: object) -> None:
    torch._check(
        g.shape[:2] == out.shape[:2],
        lambda: "depthwise_backward: g must have out's batch size, channels, dtype and device",
    )


def convolve_channels(
    x: Tensor,
    weight: Tensor,
    size: torch.Size,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Tensor:
    """Each channel's own convolution, in plain torch and x's dtype.

    Args:
        x: (N, C, H, W).
        weight: (KH, KW, C).
        size: (OH, OW), how far the windows go.
        bias: (C,), or None.
        stride: as for `depthwise`.
        padding: as for `depthwise`.
        dilation: as for `depthwise`.
    """
    below, right = (
        padding_end(*axis)
        for axis in zip(x.shape[2:], size, weight.shape[:2], stride, padding, dilation, strict=True)
    )
    return F.conv2d(
        F.pad(x, (padding[1], right, padding[0], below)),
        weight.to(x.dtype).permute(2, 0, 1)[:, None],
        None if bias is None else bias.to(x.dtype),
        stride,
        dilation=dilation,
        groups=x.shape[1],
    )
