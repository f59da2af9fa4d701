"""The rules of `lower` for sums, products and quotients."""

from __future__ import annotations

from typing import Any

import torch

from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.ir.pointwise import Multiply, Pointwise
from sign_ext.compiler.lower import Builder, Ref, constant, rule
from sign_ext.compiler.rules.operands import channel_constant
from sign_ext.errors import UnsupportedOperation


def scaled(to: Builder, x: Any, factor: float) -> Any:
    """factor · x, for a value or a constant."""
    if factor == 1:
        return x
    if not isinstance(x, Ref):
        return x * factor
    scale = torch.full((x.shape[0],), float(factor), dtype=torch.float64)
    return to.add(Pointwise, (x,), x.shape, scale=scale)


@rule("add.Tensor", "add.Scalar")
def add(to: Builder, shape: Shape, a: Any, b: Any, alpha: float = 1) -> Ref:
    """a + alpha · b."""
    b = scaled(to, b, alpha)
    if isinstance(a, Ref) and isinstance(b, Ref):
        if a.shape != b.shape:
            raise UnsupportedOperation(f"shapes {a.shape} and {b.shape} differ")
        return to.add(Pointwise, (a, b), shape)
    x, other = (a, b) if isinstance(a, Ref) else (b, a)
    if x.shape != shape:
        raise UnsupportedOperation("a constant larger than the value")
    return to.add(Pointwise, (x,), shape, shift=channel_constant(other, x))


@rule("sub.Tensor", "sub.Scalar")
def subtract(to: Builder, shape: Shape, a: Any, b: Any, alpha: float = 1) -> Ref:
    """a - alpha · b."""
    return add(to, shape, a, b, -alpha)


@rule("rsub.Scalar", "rsub.Tensor")
def reverse_subtract(to: Builder, shape: Shape, a: Any, b: Any, alpha: float = 1) -> Ref:
    """b - alpha · a."""
    return add(to, shape, b, a, -alpha)


@rule("neg.default")
def negative(to: Builder, shape: Shape, x: Ref) -> Ref:
    """-x."""
    result: Ref = scaled(to, x, -1)
    return result


@rule("mul.Tensor", "mul.Scalar")
def multiply(to: Builder, shape: Shape, a: Any, b: Any) -> Ref:
    """a · b: two values, or a value and a constant."""
    if isinstance(a, Ref) and isinstance(b, Ref):
        if a.shape != shape:
            a, b = b, a
        spread = (shape[0], *[1] * (len(shape) - 1))
        if a.shape != shape or b.shape not in (shape, spread):
            raise UnsupportedOperation(f"shapes {a.shape} and {b.shape}")
        return to.add(Multiply, (a, b), shape)
    x, other = (a, b) if isinstance(a, Ref) else (b, a)
    if x.shape != shape:
        raise UnsupportedOperation("a constant larger than the value")
    return to.add(Pointwise, (x,), shape, scale=channel_constant(other, x))


@rule("div.Tensor", "div.Scalar")
def divide(to: Builder, shape: Shape, a: Any, b: Any) -> Ref:
    """a / b, b a constant."""
    divisor = constant(b)
    if divisor is None:
        raise UnsupportedOperation("a quotient of values")
    return multiply(to, shape, a, 1 / divisor.double())
