"""The rule for cumsum."""

from __future__ import annotations

from typing import Any

from sign_ext.compiler.builder import Builder
from sign_ext.compiler.ir.cumulative import CumulativeSum
from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.lower import lowers
from sign_ext.compiler.refs import Ref
from sign_ext.compiler.rules.viewed import add_alike
from sign_ext.errors import UnsupportedOperation


@lowers("cumsum.default", views=True)
def cumsum(builder: Builder, shape: Shape, x: Ref, dim: int, *, dtype: Any = None) -> Ref:
    """The cumulative sum along one dimension."""
    if dtype not in (None, builder.dtype):
        raise UnsupportedOperation(f"a change of type to {dtype}")
    sizes = x.view.shape
    axis = x.axis(dim)
    if x.merged and axis == x.images:
        raise UnsupportedOperation("it is along the dimension of the images")
    return add_alike(builder, CumulativeSum, [x], sizes, dim=axis - len(sizes))
