"""Rules for pooling, and for the mean over an image."""

from __future__ import annotations

import math
from typing import Any

from sign_ext.compiler.builder import stored
from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.ir.pooling import AdaptiveAverage, AveragePool, MaxPool
from sign_ext.compiler.ir.view import View
from sign_ext.compiler.lower import Builder, Ref, lowers, pair, require_image
from sign_ext.compiler.positions import has_channels_first
from sign_ext.errors import UnsupportedOperation
from sign_ext.ops.layout import Pair


def _indexed(kernel: Pair) -> Pair:
    """The window of a maximum pooling; the operators keep a position of it in one byte at most."""
    if math.prod(kernel) > 256:
        raise UnsupportedOperation("a window of more than 256 positions")
    return kernel


@lowers("max_pool2d.default")
def max_pool2d(
    builder: Builder,
    shape: Shape,
    x: Ref,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Ref:
    """Maximum pooling."""
    require_image(x)
    return builder.add(
        MaxPool,
        (x,),
        shape,
        kernel=_indexed(pair(kernel)),
        stride=pair(stride or kernel),
        padding=pair(padding),
        dilation=pair(dilation),
        ceil_mode=ceil_mode,
    )


@lowers("avg_pool2d.default")
def avg_pool2d(
    builder: Builder,
    shape: Shape,
    x: Ref,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Ref:
    """Average pooling."""
    require_image(x)
    return builder.add(
        AveragePool,
        (x,),
        shape,
        kernel=pair(kernel),
        stride=pair(stride or kernel),
        padding=pair(padding),
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        divisor=divisor_override,
    )


@lowers("adaptive_avg_pool2d.default")
def adaptive_avg_pool2d(builder: Builder, shape: Shape, x: Ref, size: Any) -> Ref:
    """Plain average pooling where the output divides the input."""
    require_image(x)
    rows, columns = x.shape[1:]
    if shape == x.shape:
        return x
    if rows % shape[1] or columns % shape[2]:
        return builder.add(AdaptiveAverage, (x,), shape)
    kernel = (rows // shape[1], columns // shape[2])
    return builder.add(AveragePool, (x,), shape, kernel=kernel, stride=kernel)


@lowers("adaptive_max_pool2d.default")
def adaptive_max_pool2d(builder: Builder, shape: Shape, x: Ref, size: Any) -> Any:
    """Plain maximum pooling where the output divides the input; its indices are not supported."""
    require_image(x)
    rows, columns = x.shape[1:]
    to_rows, to_columns = pair(size)
    if rows % to_rows or columns % to_columns:
        raise UnsupportedOperation("windows that differ in size")
    kernel = _indexed((rows // to_rows, columns // to_columns))
    shape = (x.shape[0], to_rows, to_columns)
    return (builder.add(MaxPool, (x,), shape, kernel=kernel, stride=kernel), None)


@lowers("mean.dim", views=True)
def mean(builder: Builder, shape: Shape, x: Ref, dim: Any, keepdim: bool = False, **_: Any) -> Ref:
    """The mean over all positions of an image, (2, 3), a volume or a signal."""
    dims = len(x.view.shape) + 1
    if dims < 3 or sorted(d % dims for d in dim or ()) != list(range(2, dims)):
        raise UnsupportedOperation(f"the mean over {dim}; that over all positions is supported")
    if not has_channels_first(x):
        if dims != 4:
            raise UnsupportedOperation("the mean over what is not stored as positions")
        x = stored(builder, x)
    kernel = (x.shape[1], x.shape[2])
    pooled = builder.add(AveragePool, (x,), (x.shape[0], 1, 1), kernel=kernel, stride=kernel)
    return pooled.seen(View.contiguous(shape))
