"""The rule for PReLU."""

from __future__ import annotations

from torch import Tensor

from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.ir.prelu import PReLU
from sign_ext.compiler.lower import Builder, Ref, lowers, require_constants
from sign_ext.compiler.rules.pointwise import leaky_relu


@lowers("prelu.default")
def prelu(builder: Builder, shape: Shape, x: Ref, slopes: Tensor) -> Ref:
    """A leaky ReLU, whose bits are kept, where one slope is enough."""
    require_constants(slopes)
    if bool((slopes == slopes[0]).all()) and float(slopes[0]) >= 0:
        return leaky_relu(builder, shape, x, float(slopes[0]))
    return builder.add(PReLU, (x,), shape, slopes=slopes)
