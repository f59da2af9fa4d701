"""Global response normalisation: our operators go over the image, PyTorch's over vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from sign_ext.compiler.ir.response_norm import ResponseNorm
from sign_ext.compiler.schedule import Instruction
from sign_ext.engine.fused.bind.context import (
    BackwardKernel,
    BindContext,
    ForwardKernel,
    Slots,
    binds,
    binds_backward,
)
from sign_ext.ops.gate import gate, position_sums


@binds(ResponseNorm)
def forward(context: BindContext, i: Instruction, op: ResponseNorm) -> ForwardKernel:
    """Σ x², the factors, the product."""
    (slot,) = i.own
    wide = torch.promote_types(context.dtype, torch.float32)
    scale, shift = op.scale.to(wide), None if op.shift is None else op.shift.to(wide)

    def run(s: Slots, images: int, x: Tensor) -> Tensor:
        norms = torch.empty((images, op.shape[0]), dtype=wide, device=x.device)
        position_sums(x, norms, y=x)
        norms.sqrt_()
        mean = norms.mean(1, keepdim=True).add_(op.eps)
        factors = (norms / mean).mul_(scale).add_(1)
        s[slot] = (norms, mean, factors)
        out = context.new(images, op.shape)
        gate(x, out, factors, shift=None if shift is None else shift.repeat(images, 1))
        return out

    return run


@binds_backward(ResponseNorm)
def backward(context: BindContext, i: Instruction, op: ResponseNorm) -> BackwardKernel:
    """Σ g · x, the norms' cotangent, then g · factors + x · that, over g where g is free."""
    (slot,), x_slot = i.own, i.reads[1]

    def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
        norms, mean, factors = s[slot]
        x = s[x_slot]
        sums = torch.empty_like(norms)
        position_sums(g, sums, y=x)
        back = op.norms_cotangent(sums, norms, mean)
        out = g if i.in_place and other is None else torch.empty_like(g)
        gate(g, out, factors)
        out.addcmul_(x, back.to(out.dtype)[:, :, None, None])
        return out if other is None else out.add_(other)

    return run
