"""The rule for RMSNorm over the last dimension."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sign_ext.compiler.builder import tokens
from sign_ext.compiler.ir.pointwise import Pointwise
from sign_ext.compiler.ir.rms_norm import RMSNorm
from sign_ext.compiler.lower import Builder, Ref, lowers, require_constants
from sign_ext.errors import UnsupportedOperation


@lowers("rms_norm.default", whole=True)
def rms_norm(
    builder: Builder,
    sizes: Sequence[int],
    x: Ref,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Ref:
    """Normalise, then scale: a linear layer or 1×1 convolution after it absorbs that."""
    require_constants(weight)
    if len(normalized_shape) != 1:
        raise UnsupportedOperation("over more than the last dimension")
    x = tokens(builder, x)
    smallest = torch.finfo(builder.dtype).eps if eps is None else float(eps)
    found = builder.add(RMSNorm, (x,), x.shape, eps=smallest)
    if weight is not None:
        found = builder.add(Pointwise, (found,), x.shape, scale=weight.double())
    return found.like(x)
