"""Rules for signals, (N, C, T): images of one row, which are stored alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sign_ext.compiler.builder import relabelled
from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.ir.rearrange import Rearrange
from sign_ext.compiler.lower import Builder, Ref, lowers, require_constants
from sign_ext.compiler.positions import ref_of
from sign_ext.compiler.rules.dense import conv2d
from sign_ext.compiler.rules.pooling import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    max_pool2d,
)
from sign_ext.compiler.rules.resample import resampled
from sign_ext.compiler.rules.transposed_convolution import conv_transpose2d
from sign_ext.compiler.rules.upsample import upsample_nearest2d
from sign_ext.errors import UnsupportedOperation


def image_of(builder: Builder, x: Any) -> Ref:
    """A signal as an image of one row; a copy if it is not stored with the channels innermost.

    Args:
        builder: the program so far.
        x: an operand.
    """
    if not isinstance(x, Ref) or len(x.view.shape) != 2 or x.merged:
        raise UnsupportedOperation("only signals (N, C, T) are supported here")
    wanted = ref_of(x.number, x.view.shape)
    if x.view == wanted.view and x.covers and x.shape[0] == wanted.shape[0]:
        x = relabelled(builder, x, wanted.shape)
    else:
        x = builder.once(Rearrange, x, wanted.shape, view=x.view.permuted((1, 0)))
    return Ref(x.number, wanted.shape)


def signal_of(image: Ref) -> Ref:
    """An image of one row as the network sees it.

    Args:
        image: (C, 1, T).
    """
    channels, _, length = image.shape
    return ref_of(image.number, (channels, length))


def row_of(shape: Shape) -> Shape:
    """(C, T) as (C, 1, T).

    Args:
        shape: one image's; () stays, of an operation with several outputs.
    """
    return (shape[0], 1, *shape[1:]) if shape else shape


def _across(value: Any, still: int) -> tuple[int, int]:
    """A number of the one axis, and what leaves the other as it is."""
    return (still, int(value if isinstance(value, int) else value[0]))


@lowers("conv1d.default", "conv1d.padding", views=True)
def conv1d(
    builder: Builder,
    shape: Shape,
    x: Ref,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Ref:
    """A convolution of one row."""
    require_constants(weight, bias)
    found = conv2d(
        builder,
        row_of(shape),
        image_of(builder, x),
        weight[:, :, None],
        bias,
        _across(stride, 1),
        padding if isinstance(padding, str) else _across(padding, 0),
        _across(dilation, 1),
        groups,
    )
    return signal_of(found)


@lowers("conv_transpose1d.default", views=True)
def conv_transpose1d(
    builder: Builder,
    shape: Shape,
    x: Ref,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Ref:
    """A transposed convolution of one row."""
    require_constants(weight, bias)
    found = conv_transpose2d(
        builder,
        row_of(shape),
        image_of(builder, x),
        weight[:, :, None],
        bias,
        _across(stride, 1),
        _across(padding, 0),
        _across(output_padding, 0),
        groups,
        _across(dilation, 1),
    )
    return signal_of(found)


@lowers("max_pool1d.default", views=True)
def max_pool1d(
    builder: Builder,
    shape: Shape,
    x: Ref,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Ref:
    """Maximum pooling of one row."""
    found = max_pool2d(
        builder,
        row_of(shape),
        image_of(builder, x),
        _across(kernel, 1),
        _across(stride or kernel, 1),
        _across(padding, 0),
        _across(dilation, 1),
        ceil_mode,
    )
    return signal_of(found)


@lowers("avg_pool1d.default", views=True)
def avg_pool1d(
    builder: Builder,
    shape: Shape,
    x: Ref,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Ref:
    """Average pooling of one row."""
    found = avg_pool2d(
        builder,
        row_of(shape),
        image_of(builder, x),
        _across(kernel, 1),
        _across(stride or kernel, 1),
        _across(padding, 0),
        ceil_mode,
        count_include_pad,
    )
    return signal_of(found)


@lowers("adaptive_avg_pool1d.default", views=True)
def adaptive_avg_pool1d(builder: Builder, shape: Shape, x: Ref, size: Any) -> Ref:
    """Means over windows of one row."""
    image = image_of(builder, x)
    return signal_of(adaptive_avg_pool2d(builder, row_of(shape), image, _across(size, 1)))


@lowers("adaptive_max_pool1d.default", views=True)
def adaptive_max_pool1d(builder: Builder, shape: Shape, x: Ref, size: Any) -> Any:
    """Maxima over windows of one row; their indices are not supported."""
    image = image_of(builder, x)
    found, _ = adaptive_max_pool2d(builder, (), image, _across(size, 1))
    return signal_of(found), None


@lowers("upsample_linear1d.vec", views=True)
def upsample_linear1d(
    builder: Builder, shape: Shape, x: Ref, size: Any, align: bool, scales: Any = None
) -> Ref:
    """interpolate(x, mode="linear")."""
    both = (None, scales[0]) if scales else None
    return signal_of(
        resampled(builder, row_of(shape), image_of(builder, x), "bilinear", align, both)
    )


@lowers("upsample_nearest1d.vec", views=True)
def upsample_nearest1d(
    builder: Builder, shape: Shape, x: Ref, size: Any, scales: Sequence[float] | None = None
) -> Ref:
    """interpolate(x, mode="nearest")."""
    both = (1.0, scales[0]) if scales else None
    return signal_of(upsample_nearest2d(builder, row_of(shape), image_of(builder, x), None, both))
