"""The rules of `lower` for operations that only move elements, or do nothing in evaluation."""

from __future__ import annotations

from typing import Any

import torch

from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.ir.shaping import Concat, Pad, Reshape, Slice
from sign_ext.compiler.lower import Builder, Ref, rule
from sign_ext.compiler.rules.operands import need_image
from sign_ext.errors import UnsupportedOperation


def reshaped(to: Builder, x: Ref, shape: Shape) -> Ref:
    """The same elements in another shape; nothing where it is the same."""
    return x if x.shape == shape else to.add(Reshape, (x,), shape)


@rule("cat.default")
def cat(to: Builder, shape: Shape, parts: Any, dim: int = 0) -> Ref:
    """Values one after another."""
    dim %= len(shape) + 1
    if dim == 0:
        raise UnsupportedOperation("images are concatenated with images")
    if not all(isinstance(part, Ref) for part in parts):
        raise UnsupportedOperation("a constant among the parts")
    return parts[0] if len(parts) == 1 else to.add(Concat, tuple(parts), shape, dim=dim)


@rule(
    "flatten.using_ints",
    "view.default",
    "reshape.default",
    "_unsafe_view.default",
    "unsqueeze.default",
    "squeeze.dim",
    "squeeze.dims",
    "squeeze.default",
    "unflatten.int",
)
def reshape(to: Builder, shape: Shape, x: Ref, *_: Any, **__: Any) -> Ref:
    """Each image by itself in another shape."""
    return reshaped(to, x, shape)


@rule("dropout.default", "feature_dropout.default", "alpha_dropout.default")
def dropout(to: Builder, shape: Shape, x: Ref, p: float, train: bool) -> Ref:
    """Nothing in evaluation."""
    if train and p:
        raise UnsupportedOperation("it is active in evaluation mode")
    return x


@rule("contiguous.default", "clone.default", "alias.default", "lift_fresh_copy.default")
def same(to: Builder, shape: Shape, x: Ref, **_: Any) -> Ref:
    """The same values."""
    return x


@rule("to.dtype", "to.dtype_layout", "_to_copy.default", "to.device", "to.other")
def to_dtype(to: Builder, shape: Shape, x: Ref, *args: Any, **named: Any) -> Ref:
    """The same values: a change of type is refused."""
    asked = [v for v in (*args, *named.values()) if isinstance(v, torch.dtype)]
    raise_on = [dtype for dtype in asked if dtype != to.dtype]
    if raise_on:
        raise UnsupportedOperation(f"a change of type to {raise_on[0]}")
    return x


@rule("pad.default", "constant_pad_nd.default")
def pad(to: Builder, shape: Shape, x: Ref, amounts: Any, *rest: Any, **named: Any) -> Ref:
    """A constant around the image."""
    need_image(x)
    mode = named.get("mode", rest[0] if rest and isinstance(rest[0], str) else "constant")
    values = [v for v in (*rest, named.get("value")) if isinstance(v, int | float)]
    if mode != "constant":
        raise UnsupportedOperation(f"padding by {mode}")
    if len(amounts) > 4 and any(amounts[4:]):
        raise UnsupportedOperation("padding of channels")
    left, right, top, bottom = (*amounts[:4], 0, 0)[:4]
    value = float(values[0]) if values else 0.0
    return to.add(Pad, (x,), shape, amounts=(left, right, top, bottom), value=value)


def part(to: Builder, x: Ref, dim: int, start: int, stop: int, step: int = 1) -> Ref:
    """Places start:stop:step along a dimension of (N, ...), the value itself if that is all."""
    size = x.shape[dim - 1]
    start, stop, step = slice(start, stop, step).indices(size)
    if (start, stop, step) == (0, size, 1):
        return x
    shape = list(x.shape)
    shape[dim - 1] = len(range(start, stop, step))
    return to.add(Slice, (x,), tuple(shape), dim=dim, start=start, stop=stop, step=step)


def _inner(dim: int, x: Ref) -> int:
    dim %= len(x.shape) + 1
    if dim == 0:
        raise UnsupportedOperation("it picks among images")
    return dim


@rule("slice.Tensor")
def slice_tensor(
    to: Builder,
    shape: Shape,
    x: Ref,
    dim: int = 0,
    start: int | None = None,
    stop: int | None = None,
    step: int = 1,
) -> Ref:
    """x[..., start:stop:step, ...]."""
    whole = start in (None, 0) and (stop is None or stop > 2**60) and step == 1
    if whole:
        return x
    return part(to, x, _inner(dim, x), start or 0, 2**62 if stop is None else stop, step)


@rule("narrow.default")
def narrow(to: Builder, shape: Shape, x: Ref, dim: int, start: int, length: int) -> Ref:
    """`length` places from `start`."""
    return part(to, x, _inner(dim, x), start, start + length)


@rule("chunk.default")
def chunk(to: Builder, shape: Shape, x: Ref, chunks: int, dim: int = 0) -> tuple[Ref, ...]:
    """Equal parts, the last one smaller."""
    dim = _inner(dim, x)
    return split(to, shape, x, -(-x.shape[dim - 1] // chunks), dim)


@rule("split.Tensor", "split.sizes", "split_with_sizes.default")
def split(to: Builder, shape: Shape, x: Ref, sizes: Any, dim: int = 0) -> tuple[Ref, ...]:
    """Parts of given sizes."""
    dim = _inner(dim, x)
    total = x.shape[dim - 1]
    if isinstance(sizes, int):
        sizes = [min(sizes, total - start) for start in range(0, total, sizes)]
    parts, start = [], 0
    for size in sizes:
        parts.append(part(to, x, dim, start, start + size))
        start += size
    return tuple(parts)
