"""Squeeze-and-excitation: our operators go over the image, PyTorch's over vectors of channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sign_ext.compiler.ir.dense import Linear
from sign_ext.compiler.ir.op import Op, count
from sign_ext.compiler.ir.pointwise import SMOOTH, Pointwise, Smooth
from sign_ext.compiler.ir.squeeze_excitation import SqueezeExcitation
from sign_ext.compiler.schedule import Instruction
from sign_ext.engine.fused.bind.context import (
    BackwardKernel,
    BindContext,
    ForwardKernel,
    Slots,
    binds,
    binds_backward,
    prepares,
)
from sign_ext.ops.activation import RELU, Piecewise
from sign_ext.ops.gate import gate, position_sums


class Stage(NamedTuple):
    """One operation on vectors of channels, (N, C) in float32 or float64."""

    forward: Callable[[Tensor], tuple[Tensor, Tensor | None]]  # the value, and what is kept
    backward: Callable[[Tensor, Tensor | None], Tensor]


def _linear(op: Linear) -> Stage:
    # The transposed weight is a view: a product with a few rows reads either order at one speed.
    weight, bias, transposed = op.weight.contiguous(), op.bias, op.weight.contiguous().t()

    def forward(v: Tensor) -> tuple[Tensor, Tensor | None]:
        return v @ transposed if bias is None else torch.addmm(bias, v, transposed), None

    return Stage(forward, lambda g, kept: g @ weight)


def _pointwise(op: Pointwise) -> Stage:
    scale, shift = op.scale, op.shift

    def forward(v: Tensor) -> tuple[Tensor, Tensor | None]:
        v = v if scale is None else v * scale
        return v if shift is None else v + shift, None

    return Stage(forward, lambda g, kept: g if scale is None else g * scale)


def _smooth(op: Smooth) -> Stage:
    value, pull_back, keeps_output = SMOOTH[op.function]

    def forward(v: Tensor) -> tuple[Tensor, Tensor | None]:
        y = value(v)
        return y, y if keeps_output else v

    def backward(g: Tensor, kept: Tensor | None) -> Tensor:
        assert kept is not None
        return pull_back(g, kept)

    return Stage(forward, backward)


def _activation(activation: Piecewise) -> Stage:
    def forward(v: Tensor) -> tuple[Tensor, Tensor | None]:
        y = activation.apply(v)
        return y, y

    def backward(g: Tensor, kept: Tensor | None) -> Tensor:
        assert kept is not None
        if activation == RELU:  # one operator in place of five
            return torch.ops.aten.threshold_backward(g, kept, 0)
        return activation.pull_back(g, activation.passes(kept))

    return Stage(forward, backward)


def _stages(op: Op) -> list[Stage]:
    if isinstance(op, Linear):
        first = _linear(op)
    elif isinstance(op, Pointwise):
        first = _pointwise(op)
    else:
        assert isinstance(op, Smooth)
        first = _smooth(op)
    return [first] if op.activation.is_identity else [first, _activation(op.activation)]


@prepares(SqueezeExcitation)
def network(context: BindContext, place: int, op: SqueezeExcitation) -> list[Stage]:
    """The network's stages, with its weights."""
    return [stage for each in op.network for stage in _stages(each)]


@binds(SqueezeExcitation)
def forward(context: BindContext, i: Instruction, op: SqueezeExcitation) -> ForwardKernel:
    """Means, the network, the product."""
    (slot,), stages = i.own, context.prepared[i.op]
    wide = torch.promote_types(context.dtype, torch.float32)
    factor = 1 / count(op.shape[1:])

    def run(s: Slots, images: int, x: Tensor) -> Tensor:
        value = torch.empty((images, op.shape[0]), dtype=wide, device=x.device)
        position_sums(x, value, factor=factor)
        kept = s[slot] = []
        for stage in stages:
            value, residue = stage.forward(value)
            kept.append(residue)
        kept.append(value)
        out = context.new(images, op.shape)
        gate(x, out, value)
        return out

    return run


@binds_backward(SqueezeExcitation)
def backward(context: BindContext, i: Instruction, op: SqueezeExcitation) -> BackwardKernel:
    """Σ g · x, the network, then g · s plus the pooling's cotangent, over g where g is free."""
    (slot,), stages, x_slot = i.own, context.prepared[i.op], i.reads[1]
    wide = torch.promote_types(context.dtype, torch.float32)
    # The pooling divides by the number of positions; the network's backward pass is linear, so that
    # the sums may be divided instead.
    factor = 1 / count(op.shape[1:])

    def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
        value = torch.empty((len(g), op.shape[0]), dtype=wide, device=g.device)
        position_sums(g, value, y=s[x_slot], factor=factor)
        *residues, factors = s[slot]
        for stage, residue in zip(reversed(stages), reversed(residues), strict=True):
            value = stage.backward(value, residue)
        out = g if i.in_place and other is None else torch.empty_like(g)
        gate(g, out, factors, shift=value)
        return out if other is None else out.add_(other)

    return run
