"""Rules for interpolation, but for nearest-neighbour to a multiple of the size (`upsample`)."""

from __future__ import annotations

from typing import Any

from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.ir.resample import Resample
from sign_ext.compiler.lower import Builder, Ref, lowers, require_image


def resampled(
    builder: Builder, shape: Shape, x: Ref, name: str, align_corners: bool, scales: Any
) -> Ref:
    """Interpolation of an image; none where the size stays the same and no other scale is given.

    Args:
        builder: the program so far.
        shape: one image's, of the output.
        x: the value.
        name: of the filter, in `FILTERS`.
        align_corners: see there.
        scales: two factors, or None.
    """
    require_image(x)
    vertical, horizontal = scales or (None, None)
    if shape == x.shape and vertical in (None, 1) and horizontal in (None, 1):
        return x
    return builder.add(
        Resample,
        (x,),
        shape,
        filter=name,
        align_corners=align_corners,
        scales=(vertical, horizontal),
    )


@lowers("upsample_bilinear2d.vec")
def bilinear(builder: Builder, shape: Shape, x: Ref, size: Any, align: bool, scales: Any) -> Ref:
    """interpolate(x, mode="bilinear")."""
    return resampled(builder, shape, x, "bilinear", align, scales)


@lowers("upsample_bicubic2d.vec")
def bicubic(builder: Builder, shape: Shape, x: Ref, size: Any, align: bool, scales: Any) -> Ref:
    """interpolate(x, mode="bicubic")."""
    return resampled(builder, shape, x, "bicubic", align, scales)


@lowers("_upsample_bilinear2d_aa.vec")
def bilinear_antialias(
    builder: Builder, shape: Shape, x: Ref, size: Any, align: bool, scales: Any
) -> Ref:
    """interpolate(x, mode="bilinear", antialias=True)."""
    return resampled(builder, shape, x, "bilinear antialias", align, scales)


@lowers("_upsample_bicubic2d_aa.vec")
def bicubic_antialias(
    builder: Builder, shape: Shape, x: Ref, size: Any, align: bool, scales: Any
) -> Ref:
    """interpolate(x, mode="bicubic", antialias=True)."""
    return resampled(builder, shape, x, "bicubic antialias", align, scales)


@lowers("_upsample_nearest_exact2d.vec")
def nearest_exact(builder: Builder, shape: Shape, x: Ref, size: Any, scales: Any = None) -> Ref:
    """interpolate(x, mode="nearest-exact")."""
    return resampled(builder, shape, x, "nearest exact", False, scales)
