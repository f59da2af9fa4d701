"""The rule for LayerNorm over the last dimension: the channels at each position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sign_ext.compiler.builder import tokens
from sign_ext.compiler.ir.channel_norm import ChannelNorm
from sign_ext.compiler.ir.pointwise import Pointwise
from sign_ext.compiler.lower import Builder, Ref, lowers, require_constants
from sign_ext.errors import UnsupportedOperation


@lowers("layer_norm.default", whole=True)
def layer_norm(
    builder: Builder,
    sizes: Sequence[int],
    x: Ref,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Ref:
    """Normalise, then scale and shift: a linear layer or 1×1 convolution after it absorbs that."""
    require_constants(weight, bias)
    if len(normalized_shape) != 1:
        raise UnsupportedOperation("over more than the last dimension")
    x = tokens(builder, x)
    found = builder.add(ChannelNorm, (x,), x.shape, eps=float(eps))
    if weight is not None or bias is not None:
        scale = None if weight is None else weight.double()
        shift = None if bias is None else bias.double()
        found = builder.add(Pointwise, (found,), x.shape, scale=scale, shift=shift)
    return found.like(x)
