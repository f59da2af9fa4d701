"""From an instruction of a schedule to a function that runs it on a list of tensors.

`FORWARD` and `BACKWARD` say which function binds each kind of operation. Everything that does not
depend on the images' values is decided here, once; a bound function only allocates and calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sign_ext.compiler.ir.dense import Convolution, Linear
from sign_ext.compiler.ir.inverted_residual import InvertedResidual
from sign_ext.compiler.ir.op import Op
from sign_ext.compiler.ir.pointwise import Multiply, Pointwise, Smooth
from sign_ext.compiler.ir.pooling import AveragePool, MaxPool
from sign_ext.compiler.ir.shaping import Concat
from sign_ext.compiler.schedule import Instruction
from sign_ext.engine.fused.bind import dense, inverted_residual, pointwise, pooling, shaping
from sign_ext.engine.fused.bind.context import (
    BackwardKernel,
    BindContext,
    ForwardKernel,
    Run,
    Slots,
    tensor_in,
    to_channels_last,
)
from sign_ext.ops.masked_cotangent import masked_cotangent

# What is not listed is bound by `shaping`: PyTorch's own operators compute it as it is.
FORWARD: dict[type[Op], Callable[[BindContext, Instruction, Any], ForwardKernel]] = {
    Convolution: dense.forward,
    Linear: dense.forward,
    InvertedResidual: inverted_residual.forward,
    MaxPool: pooling.max_forward,
    Pointwise: pointwise.forward,
    Smooth: pointwise.smooth_forward,
}
BACKWARD: dict[type[Op], Callable[[BindContext, Instruction, Any], BackwardKernel]] = {
    Convolution: dense.backward,
    Linear: dense.backward,
    InvertedResidual: inverted_residual.backward,
    MaxPool: pooling.max_backward,
    AveragePool: pooling.average_backward,
    Pointwise: pointwise.backward,
    Smooth: pointwise.smooth_backward,
    Multiply: pointwise.multiply_backward,
    Concat: shaping.concat_backward,
}


class Binder:
    """Binds the instructions of one program's schedule."""

    def __init__(self, context: BindContext) -> None:
        """`context` is the program and what was prepared for it."""
        self.context = context

    def bind(self, instruction: Instruction) -> Run:
        """A function that runs an instruction and drops the tensors that nothing reads any more."""
        bind: dict[str, Callable[[Instruction], Run]] = {
            "cast": self._cast,
            "forward": self._forward,
            "seed": self._seed,
            "mask": self._mask,
            "add": self._add,
            "backward": self._backward,
        }
        run = bind[instruction.kind](instruction)
        frees = instruction.frees
        if instruction.in_place:
            # The output is the tensor of the overwritten slot: now both slots hold it. The schedule
            # does not free that slot, since its memory lives on, but its reference has to go here:
            # otherwise the memory would outlive the output.
            frees = (*frees, instruction.overwritten)
        if not frees:
            return run

        def run_and_free(s: Slots) -> None:
            run(s)
            for slot in frees:
                s[slot] = None

        return run_and_free

    def _cast(self, i: Instruction) -> Run:
        (image,), out, dtype = i.reads, i.out, self.context.dtype

        def run(s: Slots) -> None:
            s[out] = to_channels_last(s[image].to(dtype))  # type: ignore[union-attr]

        return run

    def _forward(self, i: Instruction) -> Run:
        context = self.context
        op = context.program.ops[i.op]
        kernel = FORWARD.get(type(op), shaping.forward)(context, i, op)

        def run(s: Slots) -> None:
            inputs = [s[slot] for slot in i.reads]
            images = len(inputs[0])  # type: ignore[arg-type]
            if i.mask is not None:
                s[i.mask] = context.new_mask(images, op.shape)
            s[i.out] = kernel(s, images, *inputs)

        return run

    def _seed(self, i: Instruction) -> Run:
        context, program = self.context, self.context.program
        seed = program.seed.to(context.dtype)
        shape, slope = program.image_shape, 0.0  # of a program without operations
        if i.op >= 0:
            shape, slope = program.ops[i.op].shape, program.ops[i.op].activation.slope

        def run(s: Slots) -> None:
            out = context.new(len(s[0]), shape)  # type: ignore[arg-type]
            out.copy_(seed)
            if i.mask is not None:
                masked_cotangent(out, out, mask=s[i.mask], slope=slope)
            s[i.out] = out

        return run

    def _mask(self, i: Instruction) -> Run:
        assert i.mask is not None
        mask, (read,) = i.mask, i.reads

        def run(s: Slots) -> None:
            g = s[read]
            assert g is not None
            out = g if i.in_place else torch.empty_like(g)
            masked_cotangent(g, out, mask=s[mask], slope=i.x_slope)
            s[i.out] = out

        return run

    def _add(self, i: Instruction) -> Run:
        first, second = i.reads

        def run(s: Slots) -> None:
            a, b = s[first], s[second]
            assert a is not None
            assert b is not None
            s[i.out] = a.add_(b) if i.in_place else a + b

        return run

    def _backward(self, i: Instruction) -> Run:
        op = self.context.program.ops[i.op]
        kernel = BACKWARD.get(type(op), shaping.backward)(self.context, i, op)
        cotangent = i.reads[0]

        def run(s: Slots) -> None:
            s[i.out] = kernel(s, s[cotangent], tensor_in(s, i.other))  # type: ignore[arg-type]

        return run
