"""Rules for group and instance normalisation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sign_ext.compiler.ir.group_norm import GroupNorm
from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.ir.pointwise import Pointwise
from sign_ext.compiler.lower import Builder, Ref, lowers, require_constants, require_image
from sign_ext.errors import UnsupportedOperation


@lowers("group_norm.default")
def group_norm(
    builder: Builder,
    shape: Shape,
    x: Ref,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Ref:
    """Normalise, then scale and shift: the second part fuses with what follows."""
    require_image(x)
    require_constants(weight, bias)
    normalised = builder.add(GroupNorm, (x,), shape, groups=int(groups), eps=float(eps))
    if weight is None and bias is None:
        return normalised
    scale = None if weight is None else weight.double()
    shift = None if bias is None else bias.double()
    return builder.add(Pointwise, (normalised,), shape, scale=scale, shift=shift)


@lowers("instance_norm.default")
def instance_norm(
    builder: Builder,
    shape: Shape,
    x: Ref,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Ref:
    """A group for each channel."""
    if not use_input_stats:
        raise UnsupportedOperation("it uses running statistics")
    require_image(x)
    return group_norm(builder, shape, x, x.shape[0], weight, bias, eps)
