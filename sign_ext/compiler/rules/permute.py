"""Rules for moving the channels of an image to the last dimension and back: nothing moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.lower import Builder, Ref, lowers
from sign_ext.errors import UnsupportedOperation

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


@lowers("permute.default", moved=True)
def permute(builder: Builder, shape: Shape, x: Ref, dims: Sequence[int]) -> Ref:
    """(N, C, H, W) to (N, H, W, C) and back: the same value."""
    order = tuple(d % len(dims) for d in dims)
    if len(x.shape) != 3 or order != (FIRST if x.moved else LAST):
        raise UnsupportedOperation(f"the order {order}")
    return replace(x, moved=not x.moved)
