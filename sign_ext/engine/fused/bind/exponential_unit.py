"""ELU, SELU and CELU, backward from the output."""

from __future__ import annotations

from sign_ext.compiler.ir.exponential_unit import ExponentialUnit
from sign_ext.compiler.schedule import Instruction
from sign_ext.engine.fused.bind.context import (
    BackwardKernel,
    BindContext,
    backward_by_torch,
    binds_backward,
)


@binds_backward(ExponentialUnit)
def backward(context: BindContext, i: Instruction, op: ExponentialUnit) -> BackwardKernel:
    """From the output, which the schedule has kept; PyTorch's operator runs forward as it is."""
    kept = i.reads[1]
    return backward_by_torch(lambda s, g: op.linear_vjp(g, s[kept])[0])
