"""Rules for nearest-neighbour interpolation."""

from __future__ import annotations

from typing import Any

from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.ir.upsample import Upsample
from sign_ext.compiler.lower import Builder, Ref, lowers, require_image
from sign_ext.compiler.rules.resample import resampled


@lowers("upsample_nearest2d.vec")
def upsample_nearest2d(
    builder: Builder, shape: Shape, x: Ref, size: Any, scales: Any = None
) -> Ref:
    """To a whole multiple of the size by repeating pixels; else by PyTorch's operator."""
    require_image(x)
    factor = (shape[1] // x.shape[1], shape[2] // x.shape[2])
    whole = shape[1:] == (factor[0] * x.shape[1], factor[1] * x.shape[2])
    # A factor of 2.1 may give twice the size, and reads other pixels than a factor of 2.
    if not whole or (scales and tuple(scales) != factor):
        return resampled(builder, shape, x, "nearest", False, scales)
    return x if factor == (1, 1) else builder.add(Upsample, (x,), shape, factor=factor)
