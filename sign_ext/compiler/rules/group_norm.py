"""Rules for group and instance normalisation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sign_ext.compiler.builder import stored
from sign_ext.compiler.ir.group_norm import GroupNorm
from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.ir.pointwise import Pointwise
from sign_ext.compiler.lower import Builder, Ref, lowers, require_constants, require_image
from sign_ext.compiler.positions import has_channels_first
from sign_ext.errors import UnsupportedOperation


@lowers("group_norm.default", views=True)
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
    require_constants(weight, bias)
    x = x if has_channels_first(x) else stored(builder, x)
    require_image(x)
    found = builder.add(GroupNorm, (x,), x.shape, groups=int(groups), eps=float(eps))
    if weight is not None or bias is not None:
        scale = None if weight is None else weight.double()
        shift = None if bias is None else bias.double()
        found = builder.add(Pointwise, (found,), x.shape, scale=scale, shift=shift)
    return found.like(x)


@lowers("instance_norm.default", views=True)
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
    if not isinstance(x, Ref) or x.merged:
        raise UnsupportedOperation("the images are merged with another dimension")
    return group_norm(builder, shape, x, x.view.shape[0], weight, bias, eps)
