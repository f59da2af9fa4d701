"""PReLU, backward from the input."""

from __future__ import annotations

from sign_ext.compiler.ir.prelu import PReLU
from sign_ext.compiler.schedule import Instruction
from sign_ext.engine.fused.bind.context import (
    BackwardKernel,
    BindContext,
    backward_by_torch,
    binds_backward,
)


@binds_backward(PReLU)
def backward(context: BindContext, i: Instruction, op: PReLU) -> BackwardKernel:
    """From the input, which the schedule has kept; PyTorch's operator runs forward as it is."""
    kept = i.reads[1]
    return backward_by_torch(lambda s, g: op.linear_vjp(g, s[kept])[0])
