"""Rules for the operations with weights: convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sign_ext.compiler.builder import tokens, with_channels
from sign_ext.compiler.ir.dense import Convolution, Linear
from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.lower import Builder, Ref, lowers, pair, require_constants, require_image
from sign_ext.errors import UnsupportedOperation


@lowers("conv2d.default", "conv2d.padding", "convolution.default")
def conv2d(
    builder: Builder,
    shape: Shape,
    x: Ref,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    *rest: Any,
    **named: Any,
) -> Ref:
    """conv2d(x, w, b, stride, padding, dilation, groups).

    The list of aten.convolution ends in transposed, output_padding, groups instead.
    """
    require_image(x)
    require_constants(weight, bias)
    groups = named.get("groups", rest[-1] if rest else 1)
    if len(rest) == 3 and (rest[0] or any(rest[1])):
        raise UnsupportedOperation("a transposed convolution")
    dilation = pair(dilation)
    before = after = (0, 0)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        before = (total[0] // 2, total[1] // 2)
        after = (total[0] - before[0], total[1] - before[1])
    elif padding != "valid":
        before = after = pair(padding)
    return builder.add(
        Convolution,
        (x,),
        shape,
        weight=weight,
        bias=bias,
        stride=pair(stride),
        padding=before,
        padding_end=after,
        dilation=dilation,
        groups=int(groups),
    )


@lowers("linear.default", whole=True)
def linear(
    builder: Builder, sizes: Sequence[int], x: Ref, weight: Tensor, bias: Tensor | None = None
) -> Ref:
    """linear(x, w, b): over the channels at each position it is a 1×1 convolution."""
    if not isinstance(x, Ref):
        raise UnsupportedOperation("its weights depend on the images")
    require_constants(weight, bias)
    x = tokens(builder, x)
    if len(x.shape) == 1:
        return with_channels(x, builder.add(Linear, (x,), (len(weight),), weight=weight, bias=bias))
    kernel = weight[:, :, None, None]
    image = (len(weight), *x.shape[1:])
    return with_channels(x, builder.add(Convolution, (x,), image, weight=kernel, bias=bias))
