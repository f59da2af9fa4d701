"""Rules for nearest-neighbour interpolation."""

from __future__ import annotations

from typing import Any

from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.ir.upsample import Upsample
from sign_ext.compiler.lower import Builder, Ref, lowers, require_image
from sign_ext.errors import UnsupportedOperation


@lowers("upsample_nearest2d.vec", "upsample_nearest2d.default")
def upsample_nearest2d(builder: Builder, shape: Shape, x: Ref, *_: Any, **__: Any) -> Ref:
    """To a whole multiple of the size."""
    require_image(x)
    if shape[1] % x.shape[1] or shape[2] % x.shape[2]:
        raise UnsupportedOperation(f"interpolation from {x.shape[1:]} to {shape[1:]}")
    factor = (shape[1] // x.shape[1], shape[2] // x.shape[2])
    return x if factor == (1, 1) else builder.add(Upsample, (x,), shape, factor=factor)
