"""The rule of `lower` for linear layers."""

from __future__ import annotations

from torch import Tensor

from sign_ext.compiler.ir.dense import Linear
from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.lower import Builder, Ref, rule
from sign_ext.compiler.rules.operands import need_constants
from sign_ext.errors import UnsupportedOperation


@rule("linear.default")
def linear(to: Builder, shape: Shape, x: Ref, weight: Tensor, bias: Tensor | None = None) -> Ref:
    """linear(x, w, b) on (N, F)."""
    need_constants(x if not isinstance(x, Ref) else None, weight, bias)
    if len(x.shape) != 1:
        raise UnsupportedOperation("only (N, F) is supported here")
    return to.add(Linear, (x,), shape, weight=weight, bias=bias)
