"""From an instruction of a schedule to a function that runs it on a list of tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sign_ext.compiler.ir.dense import Convolution
from sign_ext.compiler.ir.inverted_residual import InvertedResidual
from sign_ext.compiler.ir.op import Op
from sign_ext.compiler.ir.pointwise import Multiply, Pointwise, Smooth
from sign_ext.compiler.ir.pooling import AveragePool, MaxPool
from sign_ext.compiler.ir.shaping import Concat
from sign_ext.compiler.schedule import Instruction
from sign_ext.engine.fused.bind.buffers import Run, Slots, as_stored, depthwise_weight
from sign_ext.engine.fused.bind.forward import ForwardBinder
from sign_ext.ops.average_pool_backward import average_pool_backward
from sign_ext.ops.depthwise import depthwise_backward
from sign_ext.ops.masked_cotangent import masked_cotangent
from sign_ext.ops.max_pool import max_pool_backward


class Binder(ForwardBinder):
    """Binds every instruction of one program's schedule; see `Buffers` for what it is made of."""

    def bind(self, instruction: Instruction) -> Run:
        """A function that runs an instruction and frees what it frees."""
        make = getattr(self, f"_{instruction.kind}")
        run: Run = make(instruction)
        frees = instruction.frees
        if instruction.in_place:
            # Its memory lives on under another name; a reference here would keep it too long.
            frees = (*frees, instruction.overwritten)
        if not frees:
            return run

        def run_and_free(s: Slots) -> None:
            run(s)
            for slot in frees:
                s[slot] = None

        return run_and_free

    def _seed(self, i: Instruction) -> Run:
        seed = self.program.seed.to(self.dtype)
        shape = self.program.ops[i.op].shape if i.op >= 0 else self.program.image_shape
        slope = self.program.ops[i.op].activation.slope if i.op >= 0 else 0.0

        def run(s: Slots) -> None:
            out = self.new(len(s[0]), shape)  # type: ignore[arg-type]
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
        had, given = i.reads

        def run(s: Slots) -> None:
            a, b = s[had], s[given]
            assert a is not None
            assert b is not None
            s[i.out] = a.add_(b) if i.in_place else a + b

        return run

    def _backward(self, i: Instruction) -> Run:
        op = self.program.ops[i.op]
        kernel = self._backward_kernel(i, op)
        other_slot = -1 if i.other is None else i.other
        g_slot = i.reads[0]

        def run(s: Slots) -> None:
            other = s[other_slot] if other_slot >= 0 else None
            s[i.out] = kernel(s, s[g_slot], other)  # type: ignore[arg-type]

        return run

    def _backward_kernel(
        self, i: Instruction, op: Op
    ) -> Callable[[Slots, Tensor, Tensor | None], Tensor]:
        if i.op in self.dense:
            return self._dense_backward(i, op)
        if isinstance(op, InvertedResidual):
            return self._block_backward(i, op)
        if isinstance(op, Convolution | MaxPool | AveragePool):
            return self._windowed_backward(i, op)
        if isinstance(op, Pointwise):
            slope = op.activation.slope

            def scaled(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
                out = torch.empty_like(g)
                mask = None if i.mask is None else s[i.mask]
                masked_cotangent(g, out, mask=mask, slope=slope, scale=op.scale)
                return out if other is None else out.add_(other)

            return scaled
        return self._plain_backward(i, op)

    def _dense_backward(
        self, i: Instruction, op: Op
    ) -> Callable[[Slots, Tensor, Tensor | None], Tensor]:
        dense, slope = self.dense[i.op], op.activation.slope

        def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
            if i.mask is not None:
                masked = torch.empty_like(g)
                masked_cotangent(g, masked, mask=s[i.mask], slope=slope)
                g = masked
            return dense.backward(g, other)

        return run

    def _windowed_backward(
        self, i: Instruction, op: Convolution | MaxPool | AveragePool
    ) -> Callable[[Slots, Tensor, Tensor | None], Tensor]:
        """Depthwise convolution and pooling, with masks and other branches fused in."""
        weight = depthwise_weight(op) if isinstance(op, Convolution) else None
        own, mask, index = op.activation.slope, i.mask, i.index

        def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
            x_mask = None if i.x_mask is None else s[i.x_mask]
            own_mask = None if mask is None else s[mask]
            out = other if i.in_place and other is not None else self.new(len(g), op.in_shapes[0])
            if isinstance(op, Convolution):
                assert weight is not None
                depthwise_backward(
                    g,
                    weight,
                    out,
                    mask=own_mask,
                    slope=own,
                    other=other,
                    x_mask=x_mask,
                    x_slope=i.x_slope,
                    stride=op.stride,
                    padding=op.padding,
                    dilation=op.dilation,
                )
            elif isinstance(op, MaxPool):
                assert index is not None
                where = s[index]
                assert where is not None
                max_pool_backward(
                    g,
                    where,
                    out,
                    kernel=op.kernel,
                    stride=op.stride,
                    padding=op.padding,
                    dilation=op.dilation,
                    mask=own_mask,
                    slope=own,
                    other=other,
                    x_mask=x_mask,
                    x_slope=i.x_slope,
                )
            else:
                average_pool_backward(
                    g,
                    out,
                    kernel=op.kernel,
                    stride=op.stride,
                    padding=op.padding,
                    count_include_pad=op.count_include_pad,
                    divisor=op.divisor,
                    other=other,
                    x_mask=x_mask,
                    x_slope=i.x_slope,
                )
            return out

        return run

    def _plain_backward(
        self, i: Instruction, op: Op
    ) -> Callable[[Slots, Tensor, Tensor | None], Tensor]:
        """Smooth activations, products and moves: PyTorch's own operators."""

        def value(s: Slots, g: Tensor) -> Tensor:
            if isinstance(op, Smooth):
                return op.linear_vjp(g, s[i.reads[1]])[0]
            if isinstance(op, Multiply):
                factor = s[i.reads[1]]
                assert factor is not None
                return (g * factor).sum_to_size(len(g), *op.in_shapes[i.side])
            if isinstance(op, Concat):
                sizes = [shape[op.dim - 1] for shape in op.in_shapes]
                return g.narrow(op.dim, sum(sizes[: i.side]), sizes[i.side]).clone(
                    memory_format=torch.channels_last if g.dim() == 4 else torch.contiguous_format
                )
            return op.linear_vjp(g, None)[i.side]

        def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
            out = as_stored(value(s, g))
            return out if other is None else out + other

        return run
