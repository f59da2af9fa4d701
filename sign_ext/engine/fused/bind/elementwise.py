"""Functions of single elements, backward from the input or the output."""

from __future__ import annotations

from sign_ext.compiler.ir.elementwise import Elementwise
from sign_ext.compiler.schedule import Instruction
from sign_ext.engine.fused.bind.context import (
    BackwardKernel,
    BindContext,
    backward_by_torch,
    binds_backward,
)


@binds_backward(Elementwise)
def backward(context: BindContext, i: Instruction, op: Elementwise) -> BackwardKernel:
    """From what the schedule has kept; PyTorch's operator runs forward as it is."""
    kept = i.reads[1]
    return backward_by_torch(lambda s, g: op.linear_vjp(g, s[kept])[0])
