"""From an instruction of a schedule to a function that runs it on a list of tensors.

The other files of this folder bind each kind of operation: `binds` and `binds_backward` in
`context.py` register their functions. Everything that does not depend on the images' values is
decided here, once; a bound function only allocates and calls.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules

import torch

from sign_ext.compiler.schedule import Instruction
from sign_ext.engine.fused import bind
from sign_ext.engine.fused.bind.context import (
    BackwardKernel,
    BindContext,
    ForwardKernel,
    Run,
    Slots,
    binds,
    binds_backward,
    prepares,
    tensor_in,
    to_channels_last,
)
from sign_ext.ops.masked_cotangent import masked_cotangent

for _module in iter_modules(bind.__path__):
    if _module.name != "binder":
        import_module(f"{bind.__name__}.{_module.name}")


class Binder:
    """Binds the instructions of one program's schedule."""

    def __init__(self, context: BindContext) -> None:
        """`context` is the program and what was prepared for it."""
        self.context = context
        for place, op in enumerate(context.program.ops):
            made = prepares.of(op)(context, place, op)
            if made is not None:
                context.prepared[place] = made

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
            s[out] = to_channels_last(s[image].to(dtype))

        return run

    def _forward(self, i: Instruction) -> Run:
        context = self.context
        op = context.program.ops[i.op]
        kernel: ForwardKernel = binds.of(op)(context, i, op)

        def run(s: Slots) -> None:
            inputs = [s[slot] for slot in i.reads]
            images = inputs[0].shape[0]
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
            out = context.new(len(s[0]), shape)
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
        kernel: BackwardKernel = binds_backward.of(op)(self.context, i, op)
        cotangent = i.reads[0]

        def run(s: Slots) -> None:
            s[i.out] = kernel(s, s[cotangent], tensor_in(s, i.other))

        return run
