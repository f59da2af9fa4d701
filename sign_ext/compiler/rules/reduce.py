"""Rules for reductions over dimensions of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sign_ext.compiler.builder import Builder
from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.ir.reduce import First, Reduce
from sign_ext.compiler.lower import lowers
from sign_ext.compiler.refs import Ref
from sign_ext.compiler.rules.viewed import add_viewed
from sign_ext.errors import UnsupportedOperation


def _reduced(
    builder: Builder,
    x: Ref,
    dims: Any,
    keepdim: bool,
    function: str,
    correction: float = 0.0,
) -> Ref:
    """A reduction over dimensions of the network's tensor."""
    if dims is None or (not isinstance(dims, int) and not len(dims)):
        raise UnsupportedOperation("it is over the images too")
    over = [dims] if isinstance(dims, int) else list(dims)
    axes = tuple(sorted({x.axis(d) for d in over}))
    size = 1
    for d in axes:
        size *= x.view.shape[d]
    if function in ("var", "std") and size <= correction:
        raise UnsupportedOperation(f"the {function} of {size} elements")
    return _added(builder, Reduce, x, axes, keepdim, function=function, dims=axes,
                  correction=correction)  # fmt: skip


def _added(
    builder: Builder, kind: Any, x: Ref, axes: Sequence[int], keepdim: bool, **options: Any
) -> Ref:
    """With what is left in the order in which it lay."""
    view = x.view
    left = [d for d in range(len(view.shape)) if keepdim or d not in axes]
    shape = tuple(1 if d in axes else view.shape[d] for d in left)
    # By strides; dimensions of one element, which have none, stay outermost.
    steps = [view.strides[d] if n > 1 else 2**62 for d, n in zip(left, shape, strict=True)]
    order = sorted(range(len(left)), key=lambda i: -steps[i])
    return add_viewed(builder, kind, [x], shape, order=order, keepdim=bool(keepdim), **options)


@lowers("sum.dim_IntList", fallback=True)
def total(
    builder: Builder, shape: Shape, x: Ref, dims: Any, keepdim: bool = False, **named: Any
) -> Ref:
    """The sum."""
    _require_type(builder, named)
    return _reduced(builder, x, dims, keepdim, "sum")


@lowers("mean.dim", fallback=True)
def mean(
    builder: Builder, shape: Shape, x: Ref, dims: Any, keepdim: bool = False, **named: Any
) -> Ref:
    """The mean."""
    _require_type(builder, named)
    return _reduced(builder, x, dims, keepdim, "mean")


def _require_type(builder: Builder, named: dict[str, Any]) -> None:
    if named.get("dtype") not in (None, builder.dtype):
        raise UnsupportedOperation(f"a change of type to {named['dtype']}")


@lowers("amax.default", fallback=True)
def largest(builder: Builder, shape: Shape, x: Ref, dims: Any = (), keepdim: bool = False) -> Ref:
    """The maximum; ties share the cotangent."""
    return _reduced(builder, x, dims, keepdim, "amax")


@lowers("amin.default", fallback=True)
def smallest(builder: Builder, shape: Shape, x: Ref, dims: Any = (), keepdim: bool = False) -> Ref:
    """The minimum; ties share the cotangent."""
    return _reduced(builder, x, dims, keepdim, "amin")


@lowers("logsumexp.default", fallback=True)
def logsumexp(builder: Builder, shape: Shape, x: Ref, dims: Any, keepdim: bool = False) -> Ref:
    """The logarithm of the sum of exponentials."""
    return _reduced(builder, x, dims, keepdim, "logsumexp")


@lowers("max.dim", fallback=True)
def first_largest(
    builder: Builder, shape: Shape, x: Ref, dim: int, keepdim: bool = False
) -> tuple[Ref, None]:
    """The largest along a dimension; its index has no derivative."""
    axis = x.axis(dim)
    return _added(builder, First, x, (axis,), keepdim, dim=axis, largest=True), None


@lowers("min.dim", fallback=True)
def first_smallest(
    builder: Builder, shape: Shape, x: Ref, dim: int, keepdim: bool = False
) -> tuple[Ref, None]:
    """The smallest along a dimension."""
    axis = x.axis(dim)
    return _added(builder, First, x, (axis,), keepdim, dim=axis, largest=False), None


def _unbiased(unbiased: Any, named: dict[str, Any]) -> float:
    """The correction, which is subtracted from the number of elements."""
    if "correction" in named:
        return 1.0 if named["correction"] is None else float(named["correction"])
    return float(named.get("unbiased", True if unbiased is None else unbiased))


@lowers("var.dim", "var.correction", fallback=True)
def variance(
    builder: Builder, shape: Shape, x: Ref, dims: Any = None, unbiased: Any = None, *rest: Any,
    **named: Any,
) -> Ref:  # fmt: skip
    """The variance: var(x, dims, unbiased, keepdim), or with correction and keepdim by name."""
    keepdim = bool(rest[0]) if rest else bool(named.get("keepdim", False))
    return _reduced(builder, x, dims, keepdim, "var", _unbiased(unbiased, named))


@lowers("std.dim", "std.correction", fallback=True)
def deviation(
    builder: Builder, shape: Shape, x: Ref, dims: Any = None, unbiased: Any = None, *rest: Any,
    **named: Any,
) -> Ref:  # fmt: skip
    """The standard deviation, with arguments as var's."""
    keepdim = bool(rest[0]) if rest else bool(named.get("keepdim", False))
    return _reduced(builder, x, dims, keepdim, "std", _unbiased(unbiased, named))


@lowers("var_mean.dim", "var_mean.correction", fallback=True)
def variance_and_mean(
    builder: Builder, shape: Shape, x: Ref, dims: Any = None, unbiased: Any = None, *rest: Any,
    **named: Any,
) -> tuple[Ref, Ref]:  # fmt: skip
    """Both, with arguments as var's."""
    keepdim = bool(rest[0]) if rest else bool(named.get("keepdim", False))
    first = _reduced(builder, x, dims, keepdim, "var", _unbiased(unbiased, named))
    return first, _reduced(builder, x, dims, keepdim, "mean")


@lowers("linalg_vector_norm.default", fallback=True)
def vector_norm(
    builder: Builder, shape: Shape, x: Ref, power: float = 2, dims: Any = None,
    keepdim: bool = False, **named: Any,
) -> Ref:  # fmt: skip
    """The 1-norm or the 2-norm."""
    _require_type(builder, named)
    if power not in (1, 2):
        raise UnsupportedOperation(f"the {power}-norm")
    return _reduced(builder, x, dims, keepdim, "norm" if power == 2 else "norm1")


@lowers("norm.ScalarOpt_dim", fallback=True)
def norm(
    builder: Builder, shape: Shape, x: Ref, power: Any, dims: Any, keepdim: bool = False
) -> Ref:
    """vector_norm under its older name."""
    return vector_norm(builder, shape, x, 2 if power is None else power, dims, keepdim)
