"""Rules for operations that only reorder elements."""

from __future__ import annotations

from collections.abc import Sequence

from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.ir.shuffle import ChannelShuffle, Flip, PixelShuffle
from sign_ext.compiler.lower import Builder, Ref, lowers, require_image
from sign_ext.errors import UnsupportedOperation


@lowers("pixel_shuffle.default")
def pixel_shuffle(builder: Builder, shape: Shape, x: Ref, factor: int) -> Ref:
    """(C·f², H, W) → (C, f·H, f·W)."""
    require_image(x)
    return x if factor == 1 else builder.add(PixelShuffle, (x,), shape, factor=factor)


@lowers("pixel_unshuffle.default")
def pixel_unshuffle(builder: Builder, shape: Shape, x: Ref, factor: int) -> Ref:
    """(C, f·H, f·W) → (C·f², H, W)."""
    require_image(x)
    if factor == 1:
        return x
    return builder.add(PixelShuffle, (x,), shape, factor=factor, inverse=True)


@lowers("channel_shuffle.default", "native_channel_shuffle.default")
def channel_shuffle(builder: Builder, shape: Shape, x: Ref, groups: int) -> Ref:
    """Groups of channels, taken in turns."""
    require_image(x)
    if groups in (1, x.shape[0]):
        return x
    return builder.add(ChannelShuffle, (x,), shape, groups=groups)


@lowers("flip.default")
def flip(builder: Builder, shape: Shape, x: Ref, dims: Sequence[int]) -> Ref:
    """Reversed along any dimensions but the batch."""
    inner = tuple(sorted({dim % (len(x.shape) + 1) for dim in dims}))
    if 0 in inner:
        raise UnsupportedOperation("the order of the images is reversed")
    return builder.add(Flip, (x,), shape, dims=inner) if inner else x
