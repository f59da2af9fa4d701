"""Rules for products of matrices: matmul, bmm, einsum."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sign_ext.compiler.builder import Builder, in_network_order
from sign_ext.compiler.ir.matmul import MatMul
from sign_ext.compiler.ir.op import Shape, count
from sign_ext.compiler.ir.view import View
from sign_ext.compiler.lower import lowers
from sign_ext.compiler.refs import Ref
from sign_ext.compiler.rules.attention import attention_written_out
from sign_ext.compiler.rules.dense import linear
from sign_ext.compiler.rules.viewed import add_viewed, merged_in, of_one_image
from sign_ext.errors import UnsupportedOperation


@lowers("matmul.default", "bmm.default", "mm.default", views=True)
def matmul(builder: Builder, shape: Shape, a: Any, b: Any) -> Ref:
    """a @ b."""
    merged = merged_in(a, b)
    if isinstance(a, Ref) and isinstance(b, Ref):
        if len(a.view.shape) < 2 or len(b.view.shape) < 2:
            raise UnsupportedOperation("a product with vectors")
        written_out = attention_written_out(builder, a, b)
        if written_out is not None:
            return written_out
        return _product(builder, a, b)
    x, factor = (a, b) if isinstance(a, Ref) else (b, a)
    if factor.dim() == 2 and x is a:
        found: Ref = linear(builder, shape, x, factor.t())
        return found
    if len(x.view.shape) < 2 or factor.dim() < 2:
        raise UnsupportedOperation("a product with vectors")
    factor = of_one_image(builder, factor, len(x.view.shape), merged)
    out = torch.broadcast_shapes(x.view.shape[:-2], factor.shape[:-2])
    ends = (x.view.shape[-2], factor.shape[-1]) if x is a else (factor.shape[-2], x.view.shape[-1])
    return add_viewed(builder, MatMul, [x], (*out, *ends), factor=factor, factor_first=x is not a)


def _product(builder: Builder, a: Ref, b: Ref) -> Ref:
    lead = torch.broadcast_shapes(a.view.shape[:-2], b.view.shape[:-2])
    shape = (*lead, a.view.shape[-2], b.view.shape[-1])
    return add_viewed(builder, MatMul, [a, b], shape)


@lowers("einsum.default", views=True)
def einsum(builder: Builder, shape: Shape, equation: str, operands: Any, path: Any = None) -> Ref:
    """Two operands, each letter of which is kept, or summed over in both."""
    left, _, result = equation.replace(" ", "").partition("->")
    letters = left.split(",")
    if len(operands) != 2 or "." in equation or not result or merged_in(*operands):
        raise UnsupportedOperation(f"the equation {equation}")
    names = []
    for name, operand in zip(letters, operands, strict=True):
        if isinstance(operand, Ref) != name.startswith(result[0]) or result[0] in name[1:]:
            raise UnsupportedOperation(f"the equation {equation}: the images are not first")
        names.append(name.removeprefix(result[0]))
    return _contracted(builder, list(operands), names, result[1:])


def _contracted(builder: Builder, values: list[Any], names: list[str], result: str) -> Ref:
    """A product by letters, which name the dimensions of one image."""
    first, second = names
    if any(len(set(name)) < len(name) for name in (first, second, result)):
        raise UnsupportedOperation("a letter occurs twice")
    batch = [c for c in result if c in first and c in second]
    rows = [c for c in result if c in first and c not in second]
    columns = [c for c in result if c in second and c not in first]
    inner = [c for c in first if c in second and c not in result]
    if {*batch, *rows, *inner} != {*first} or {*batch, *columns, *inner} != {*second}:
        raise UnsupportedOperation("a letter is summed over in one operand")
    sizes: dict[str, int] = {}
    for value, name in zip(values, names, strict=True):
        sizes.update(zip(name, value.view.shape if isinstance(value, Ref) else value.shape,
                         strict=True))  # fmt: skip
    a = _grouped(builder, values[0], first, [*batch], [rows, inner])
    b = _grouped(builder, values[1], second, [*batch], [inner, columns])
    if isinstance(a, Ref) and isinstance(b, Ref):
        found = attention_written_out(builder, a, b) or _product(builder, a, b)
    elif isinstance(a, Ref):
        lead = a.view.shape[:-2]
        found = add_viewed(builder, MatMul, [a], (*lead, a.view.shape[-2], b.shape[-1]), factor=b)
    else:
        lead = b.view.shape[:-2]
        out = (*lead, a.shape[-2], b.view.shape[-1])
        found = add_viewed(builder, MatMul, [b], out, factor=a, factor_first=True)
    return _in_letters(found, [*batch], [rows, columns], sizes, result)


def _grouped(
    builder: Builder, value: Any, name: str, batch: list[str], groups: list[list[str]]
) -> Any:
    """An operand as matrices: dimensions of a group become one."""
    order = [name.index(c) for c in [*batch, *groups[0], *groups[1]]]
    if isinstance(value, Tensor):
        value = value.permute(order)
        shape = list(value.shape[: len(batch)])
        start = len(batch)
        for group in groups:
            shape.append(count(tuple(value.shape[start : start + len(group)])))
            start += len(group)
        return value.reshape(shape)
    value = value.seen(value.view.permuted(order))
    found = _merged(value, len(batch), groups)
    if found is None:
        found = _merged(in_network_order(builder, value), len(batch), groups)
        assert found is not None
    return found


def _merged(x: Ref, start: int, groups: list[list[str]]) -> Ref | None:
    """Groups of dimensions as one each, or None where they do not follow each other in memory."""
    view = x.view
    shape, strides = list(view.shape[:start]), list(view.strides[:start])
    for group in groups:
        dims = range(start, start + len(group))
        for outer, inner in pairwise(dims):
            if view.strides[outer] != view.shape[inner] * view.strides[inner]:
                return None
        shape.append(count(tuple(view.shape[d] for d in dims)))
        strides.append(view.strides[dims[-1]] if group else 0)
        start += len(group)
    return x.seen(View(tuple(shape), tuple(strides), view.offset))


def _in_letters(
    x: Ref, batch: list[str], groups: list[list[str]], sizes: dict[str, int], result: str
) -> Ref:
    """A product with the dimensions of the result's letters."""
    view, start = x.view, len(batch)
    names, shape, strides = [*batch], list(view.shape[:start]), list(view.strides[:start])
    for d, group in enumerate(groups):
        step = view.strides[start + d]
        steps = []
        for c in reversed(group):
            steps.append(step)
            step *= sizes[c]
        names += group
        shape += [sizes[c] for c in group]
        strides += steps[::-1]
    whole = View(tuple(shape), tuple(strides), view.offset)
    return x.seen(whole.permuted([names.index(c) for c in result]))
