"""Values whose positions have one or three axes: how signals and volumes are stored.

A signal (C, T) is stored as the image (C, 1, T) and a volume (C, D, H, W) as the image (C, D·H, W),
both with the channels innermost, so that everything that asks only for channels and positions runs
on them as on images.
"""

from __future__ import annotations

from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.ir.view import View
from sign_ext.compiler.refs import Ref


def ref_of(number: int, shape: Shape) -> Ref:
    """A value that is stored with the channels innermost.

    Args:
        number: the value's.
        shape: (C, T), (C, D, H, W), or as the value is stored.
    """
    if len(shape) == 2:
        channels, length = shape
        return Ref(number, (channels, 1, length), View(shape, (1, channels)))
    if len(shape) == 4:
        channels, depth, height, width = shape
        strides = (1, height * width * channels, width * channels, channels)
        return Ref(number, (channels, depth * height, width), View(shape, strides))
    return Ref(number, shape)


def has_channels_first(x: Ref) -> bool:
    """Whether the network sees a value as (C, ...) with the channels in which it is stored.

    Args:
        x: the value.
    """
    view = x.view
    plain = not x.images and not x.merged and x.covers
    first = len(view.shape) > 1 and view.shape[0] == x.shape[0] and len(x.shape) == 3
    return plain and first and (view.strides[0] == 1 or view.shape[0] == 1)
