"""Rules for normalizations: BatchNorm in evaluation mode, a constant affine map."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.ir.pointwise import Pointwise
from sign_ext.compiler.lower import Builder, Ref, rule
from sign_ext.errors import UnsupportedOperation


@rule("batch_norm.default")
def batch_norm(
    builder: Builder,
    shape: Shape,
    x: Ref,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Ref:
    """scale = γ / √(σ² + ε), shift = β - μ · scale, in float64."""
    if training or mean is None or variance is None:
        raise UnsupportedOperation("it uses the batch's own statistics")
    scale = (variance.double() + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.double()
    shift = -mean.double() * scale
    if bias is not None:
        shift = shift + bias.double()
    return builder.add(Pointwise, (x,), shape, scale=scale, shift=shift)
