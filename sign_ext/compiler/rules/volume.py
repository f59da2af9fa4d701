"""Rules for volumes, (N, C, D, H, W): by 2-d operations wherever a kernel allows it.

A volume is stored as the image (C, D·H, W). A kernel of one plane is a 2-d operation on each of its
planes, one of a single column of planes an operation on the image (C, D, H·W).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sign_ext.compiler.builder import relabelled
from sign_ext.compiler.ir.dense import Convolution
from sign_ext.compiler.ir.framewise import Framewise, framed, frames_in
from sign_ext.compiler.ir.op import Op, Shape
from sign_ext.compiler.ir.pooling import AdaptiveAverage, AveragePool, MaxPool
from sign_ext.compiler.ir.rearrange import Rearrange
from sign_ext.compiler.ir.resample import Resample
from sign_ext.compiler.ir.upsample import Upsample
from sign_ext.compiler.ir.volume_convolution import Triple, VolumeConvolution
from sign_ext.compiler.lower import Builder, Ref, lowers, require_constants
from sign_ext.compiler.positions import ref_of
from sign_ext.errors import UnsupportedOperation


def volume(builder: Builder, x: Any) -> Ref:
    """An operand as a volume that is stored with the channels innermost; a copy if need be.

    Args:
        builder: the program so far.
        x: an operand.
    """
    if not isinstance(x, Ref) or len(x.view.shape) != 4 or x.merged:
        raise UnsupportedOperation("only volumes (N, C, D, H, W) are supported here")
    wanted = ref_of(x.number, x.view.shape)
    if x.view == wanted.view and x.covers:
        return relabelled(builder, x, wanted.shape)
    made = builder.once(Rearrange, x, wanted.shape, view=x.view.permuted((1, 2, 3, 0)))
    return ref_of(made.number, x.view.shape)


def triple(value: Any) -> Triple:
    """One or three numbers as three."""
    numbers = [value] * 3 if isinstance(value, int) else list(value)
    first, second, third = numbers * 3 if len(numbers) == 1 else numbers
    return int(first), int(second), int(third)


def on_planes(
    builder: Builder, x: Ref, kind: type[Op], shape: Sequence[int], **options: Any
) -> Ref:
    """A 2-d operation on each plane of a volume.

    Args:
        builder: the program so far.
        x: from `volume`.
        kind: the operation's class.
        shape: (C, H, W) of a plane of the result.
        **options: the class's other fields.
    """
    channels, depth, *plane = x.view.shape
    inner = framed(kind, ((channels, *plane),), tuple(shape), **options)
    return _framewise(builder, x, inner, (shape[0], depth, *shape[1:]))


def along_depth(
    builder: Builder, x: Ref, kind: type[Op], channels: int, depth: int, **options: Any
) -> Ref:
    """A 2-d operation along the first axis of a volume, whose planes are the rows of an image.

    Args:
        builder: the program so far.
        x: from `volume`.
        kind: the operation's class.
        channels: of the result.
        depth: of the result.
        **options: the class's other fields.
    """
    before, size, height, width = x.view.shape
    area = height * width
    inner = framed(kind, ((before, size, area),), (channels, depth, area), **options)
    return _framewise(builder, x, inner, (channels, depth, height, width))


def _framewise(builder: Builder, x: Ref, inner: Op, shape: Shape) -> Ref:
    frames = frames_in(x.shape, inner.in_shapes[0])
    stored = ref_of(0, shape).shape
    made = builder.add(Framewise, (x,), stored, inner=inner, frames=frames)
    return ref_of(made.number, shape)


@lowers("conv3d.default", views=True)
def conv3d(
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
    """A matrix product, a 2-d convolution, or one of volumes, by what the kernel reaches."""
    require_constants(weight, bias)
    x = volume(builder, x)
    stride, padding, dilation = triple(stride), triple(padding), triple(dilation)
    steps = list(zip(weight.shape[2:], stride, padding, strict=True))
    still = [step == (1, 1, 0) for step in steps]
    common: dict[str, Any] = {"bias": bias, "groups": groups}
    if all(still):
        made = builder.add(
            Convolution, (x,), ref_of(0, shape).shape, weight=weight[:, :, 0], **common
        )
        return ref_of(made.number, shape)
    if still[0]:
        plane = _sides(stride[1:], padding[1:], dilation[1:])
        return on_planes(
            builder,
            x,
            Convolution,
            (shape[0], *shape[2:]),
            weight=weight[:, :, 0],
            **plane,
            **common,
        )
    if still[1] and still[2]:
        column = _sides((stride[0], 1), (padding[0], 0), (dilation[0], 1))
        kernel = weight[:, :, :, 0]
        return along_depth(
            builder, x, Convolution, shape[0], shape[1], weight=kernel, **column, **common
        )
    return _convolved(
        builder,
        shape,
        x,
        weight=weight,
        stride=stride,
        padding=padding,
        dilation=dilation,
        **common,
    )


def _sides(stride: Any, padding: Any, dilation: Any) -> dict[str, Any]:
    """The geometry of a 2-d convolution."""
    return {
        "stride": stride,
        "padding": padding,
        "padding_end": padding,
        "dilation": dilation,
    }


def _convolved(builder: Builder, shape: Shape, x: Ref, **options: Any) -> Ref:
    made = builder.add(
        VolumeConvolution,
        (x,),
        ref_of(0, shape).shape,
        size=triple(x.view.shape[1:]),
        out_size=triple(shape[1:]),
        **options,
    )
    return ref_of(made.number, shape)


@lowers("conv_transpose3d.input", views=True)
def conv_transpose3d(
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
    """conv_transpose3d(x, w, b, stride, padding, output_padding, groups, dilation)."""
    require_constants(weight, bias)
    stride, extra = triple(stride), triple(output_padding)
    if any(e >= s for e, s in zip(extra, stride, strict=True)):
        # The convolution back would have one more window.
        raise UnsupportedOperation(f"output_padding {extra}, which is not below stride {stride}")
    return _convolved(
        builder,
        shape,
        volume(builder, x),
        weight=weight,
        transposed=True,
        bias=bias,
        stride=stride,
        padding=triple(padding),
        dilation=triple(dilation),
        groups=groups,
    )


@lowers("max_pool3d.default", views=True)
def max_pool3d(
    builder: Builder,
    shape: Shape,
    x: Ref,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Ref:
    """The maximum over each plane's window, then over the planes: the first of all wins in both."""
    windows = zip(
        triple(kernel), triple(stride or kernel), triple(padding), triple(dilation), strict=True
    )
    return _pooled(
        builder, shape, volume(builder, x), MaxPool, list(windows), {"ceil_mode": ceil_mode}
    )


_Window = tuple[int, int, int, int]  # kernel, stride, padding, dilation


def _pooled(
    builder: Builder,
    shape: Shape,
    x: Ref,
    kind: type[Op],
    windows: list[_Window],
    options: dict[str, Any],
    of_depth: dict[str, Any] | None = None,
) -> Ref:
    """Pooling of each plane, then along the first axis."""
    names = ("kernel", "stride", "padding", "dilation")[: 4 if kind is MaxPool else 3]
    depth, *plane = windows
    found = x
    if any(window[:3] != (1, 1, 0) for window in plane):
        found = on_planes(
            builder,
            found,
            kind,
            (shape[0], *shape[2:]),
            **_indexed(kind, dict(zip(names, zip(*plane, strict=True), strict=False))),
            **options,
        )
    if depth[:3] != (1, 1, 0):
        still = (depth, (1, 1, 0, 1))
        found = along_depth(
            builder,
            found,
            kind,
            shape[0],
            shape[1],
            **_indexed(kind, dict(zip(names, zip(*still, strict=True), strict=False))),
            **(options if of_depth is None else of_depth),
        )
    return found


def _indexed(kind: type[Op], window: dict[str, Any]) -> dict[str, Any]:
    """A window; of a maximum its positions are kept in one byte at most."""
    if kind is MaxPool and math.prod(window["kernel"]) > 256:
        raise UnsupportedOperation("a window of more than 256 positions")
    return window


@lowers("avg_pool3d.default", views=True)
def avg_pool3d(
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
    """The mean over each plane's window, then over the planes."""
    x = volume(builder, x)
    ones = (1, 1, 1)
    windows = list(
        zip(triple(kernel), triple(stride or kernel), triple(padding), ones, strict=True)
    )
    options = {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    if divisor_override is None:
        return _pooled(builder, shape, x, AveragePool, windows, options)
    if windows[0][0] == 1 or all(window[0] == 1 for window in windows[1:]):
        raise UnsupportedOperation("a divisor other than the window's size, of a flat window")
    first = {**options, "divisor": divisor_override}
    return _pooled(builder, shape, x, AveragePool, windows, first, {**options, "divisor": 1})


@lowers("adaptive_avg_pool3d.default", views=True)
def adaptive_avg_pool3d(builder: Builder, shape: Shape, x: Ref, size: Any) -> Ref:
    """The mean over everything, or over windows of each axis."""
    x = volume(builder, x)
    channels, *before = x.view.shape
    after = list(shape[1:])
    if after == [1, 1, 1]:
        whole = (x.shape[1], x.shape[2])
        made = builder.add(AveragePool, (x,), (channels, 1, 1), kernel=whole, stride=whole)
        return ref_of(made.number, shape)
    found = x
    if after[1:] != before[1:]:
        plane = (channels, *after[1:])
        if any(n % m for n, m in zip(before[1:], after[1:], strict=True)):
            found = on_planes(builder, found, AdaptiveAverage, plane)
        else:
            kernel = tuple(n // m for n, m in zip(before[1:], after[1:], strict=True))
            found = on_planes(builder, found, AveragePool, plane, kernel=kernel, stride=kernel)
    if after[0] != before[0]:
        kernel = (before[0] // after[0], 1)
        if before[0] % after[0]:
            found = along_depth(builder, found, AdaptiveAverage, channels, after[0])
        else:
            options = {"kernel": kernel, "stride": kernel}
            found = along_depth(builder, found, AveragePool, channels, after[0], **options)
    return found


@lowers("adaptive_max_pool3d.default", views=True)
def adaptive_max_pool3d(builder: Builder, shape: Shape, x: Ref, size: Any) -> Any:
    """Where the output divides the input; the indices are not supported."""
    x = volume(builder, x)
    channels, *before = x.view.shape
    after = triple(size)
    if any(n % m for n, m in zip(before, after, strict=True)):
        raise UnsupportedOperation("windows that differ in size")
    kernel = [n // m for n, m in zip(before, after, strict=True)]
    found = max_pool3d(builder, (channels, *after), x, kernel)
    return found, None


@lowers("upsample_nearest3d.vec", views=True)
def upsample_nearest3d(
    builder: Builder, shape: Shape, x: Ref, size: Any, scales: Any = None
) -> Ref:
    """Planes by rows and columns, then whole planes, repeated."""
    x = volume(builder, x)
    factors = [m // n for n, m in zip(x.view.shape[1:], shape[1:], strict=True)]
    whole = [n * f for n, f in zip(x.view.shape[1:], factors, strict=True)] == list(shape[1:])
    if not whole or (scales and list(scales) != factors):
        raise UnsupportedOperation(f"interpolation from {x.view.shape[1:]} to {shape[1:]}")
    found = x
    if factors[1:] != [1, 1]:
        plane = (shape[0], *shape[2:])
        found = on_planes(builder, found, Upsample, plane, factor=(factors[1], factors[2]))
    if factors[0] != 1:
        found = along_depth(builder, found, Upsample, shape[0], shape[1], factor=(factors[0], 1))
    return found


@lowers("upsample_trilinear3d.vec", views=True)
def upsample_trilinear3d(
    builder: Builder, shape: Shape, x: Ref, size: Any, align: bool, scales: Any = None
) -> Ref:
    """Bilinear interpolation of each plane, then linear between planes."""
    x = volume(builder, x)
    depth, *plane = scales or (None, None, None)
    options = {"filter": "bilinear", "align_corners": align}
    found = on_planes(builder, x, Resample, (shape[0], *shape[2:]), scales=tuple(plane), **options)
    return along_depth(
        builder, found, Resample, shape[0], shape[1], scales=(depth, None), **options
    )
