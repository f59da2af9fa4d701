"""Interpolation: PyTorch's operators, but for input-backwards that add in any order on CUDA."""

from __future__ import annotations

import torch
from torch import Tensor

from sign_ext.compiler.ir.resample import Resample
from sign_ext.compiler.schedule import Instruction
from sign_ext.engine.fused.bind.context import (
    BackwardKernel,
    BindContext,
    backward_by_torch,
    binds_backward,
    prepares,
)


@prepares(Resample)
def axes(context: BindContext, place: int, op: Resample) -> tuple[Tensor, Tensor] | None:
    """The transposed matrices of both axes, for products that are the same every time."""
    if context.device.type != "cuda" or op.backward_is_repeatable:
        return None
    rows, columns = (op.axis(which).t().to(context.device, context.dtype) for which in (0, 1))
    return rows.contiguous(), columns.contiguous()


@binds_backward(Resample)
def backward(context: BindContext, i: Instruction, op: Resample) -> BackwardKernel:
    """By PyTorch's operator, or rows, then columns, by matrix products."""
    if i.op not in context.prepared:
        return backward_by_torch(lambda s, g: op.linear_vjp(g, None)[0])
    matrices: tuple[Tensor, Tensor] = context.prepared[i.op]
    return backward_by_torch(lambda s, g: by_axes(g, *matrices))


def by_axes(g: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows · g · columnsᵀ for each channel.

    Args:
        g: (N, C, H, W), channels innermost.
        rows: (H', H).
        columns: (W', W).

    Returns:
        (N, C, H', W'), channels innermost.
    """
    n, channels, height, width = g.shape
    across = torch.matmul(rows, g.permute(0, 2, 3, 1).reshape(n, height, width * channels))
    found = torch.matmul(columns, across.view(n, len(rows), width, channels))
    return found.permute(0, 3, 1, 2)
