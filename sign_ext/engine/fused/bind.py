"""From an instruction of a schedule to a function that runs it on a list of tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sign_ext.compiler.dense import Convolution, Linear
from sign_ext.compiler.instruction import Instruction, Slot
from sign_ext.compiler.op import Op, Shape, mask_bytes
from sign_ext.compiler.pointwise import SMOOTH, Multiply, Pointwise, Smooth
from sign_ext.compiler.pooling import AveragePool, MaxPool
from sign_ext.compiler.program import Program
from sign_ext.compiler.shaping import Concat
from sign_ext.engine.fused.dense import Dense
from sign_ext.ops.activate import activate
from sign_ext.ops.average_pool_backward import average_pool_backward
from sign_ext.ops.depthwise import depthwise
from sign_ext.ops.depthwise_backward import depthwise_backward
from sign_ext.ops.masked_cotangent import masked_cotangent
from sign_ext.ops.max_pool import index_shape, max_pool
from sign_ext.ops.max_pool_backward import max_pool_backward

Slots = list[Tensor | None]
Run = Callable[[Slots], None]


def as_stored(x: Tensor) -> Tensor:
    """A library's result in the layout that operators take: channels innermost."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()


@dataclass
class Binder:
    """Binds the instructions of one program.

    Attributes:
        program: what is run.
        slots: of the schedule.
        dense: the products of each convolution and linear operation, by its place.
        dtype: of activations and cotangents.
        device: where they are.
    """

    program: Program
    slots: tuple[Slot, ...]
    dense: dict[int, Dense]
    dtype: torch.dtype
    device: torch.device

    def bind(self, instruction: Instruction) -> Run:
        """A function that runs an instruction and frees what it frees."""
        make = getattr(self, f"_{instruction.what}")
        run: Run = make(instruction)
        frees = instruction.frees
        if not frees:
            return run

        def run_and_free(s: Slots) -> None:
            run(s)
            for slot in frees:
                s[slot] = None

        return run_and_free

    def new(self, images: int, shape: Shape) -> Tensor:
        """An activation or cotangent."""
        if len(shape) == 3:
            return torch.empty(
                (images, *shape),
                dtype=self.dtype,
                device=self.device,
                memory_format=torch.channels_last,
            )
        return torch.empty((images, *shape), dtype=self.dtype, device=self.device)

    def new_mask(self, images: int, shape: Shape) -> Tensor:
        """A bit mask."""
        row_bytes = (shape[0] + 7) // 8
        rows = images * mask_bytes(shape) // max(row_bytes, 1)
        return torch.empty((rows, row_bytes), dtype=torch.uint8, device=self.device)

    # Forward

    def _cast(self, i: Instruction) -> Run:
        (image,), out, dtype = i.reads, i.out, self.dtype

        def run(s: Slots) -> None:
            s[out] = as_stored(s[image].to(dtype))  # type: ignore[union-attr]

        return run

    def _forward(self, i: Instruction) -> Run:
        op = self.program.ops[i.op]
        shape, mask = op.shape, i.mask
        kernel = self._forward_kernel(i, op)

        def run(s: Slots) -> None:
            inputs = [s[slot] for slot in i.reads]
            images = len(inputs[0])  # type: ignore[arg-type]
            if mask is not None:
                s[mask] = self.new_mask(images, shape)
            s[i.out] = kernel(s, images, *inputs)  # type: ignore[arg-type]

        return run

    def _forward_kernel(self, i: Instruction, op: Op) -> Callable[..., Tensor]:
        mask_slot = i.mask if i.mask is not None else -1

        def mask_of(s: Slots) -> Tensor | None:
            return s[mask_slot] if mask_slot >= 0 else None

        if i.op in self.dense:
            dense = self.dense[i.op]
            return lambda s, n, x, residual=None: dense.forward(x, residual, mask_of(s))
        if isinstance(op, Convolution):
            return self._depthwise(op, mask_of)
        if isinstance(op, MaxPool):
            return self._max_pool(i, op, mask_of)
        if isinstance(op, Pointwise):

            def pointwise(s: Slots, n: int, x: Tensor, residual: Tensor | None = None) -> Tensor:
                out = x if i.in_place else self.new(n, op.shape)
                activate(
                    x,
                    out,
                    activation=op.activation,
                    scale=op.scale,
                    bias=op.shift,
                    residual=residual,
                    mask=mask_of(s),
                )
                return out

            return pointwise
        if isinstance(op, Smooth):
            value = SMOOTH[op.function][0]
            return lambda s, n, x: value(x)
        return lambda s, n, *inputs: as_stored(op.linear(*inputs)[0])

    def _depthwise(self, op: Convolution, mask_of: Callable[..., Tensor | None]) -> Run | object:
        weight = depthwise_weight(op)

        def run(s: Slots, n: int, x: Tensor) -> Tensor:
            out = self.new(n, op.shape)
            depthwise(
                x,
                weight,
                out,
                bias=op.bias,
                activation=op.activation,
                mask=mask_of(s),
                stride=op.stride,
                padding=op.padding,
                dilation=op.dilation,
            )
            return out

        return run

    def _max_pool(
        self, i: Instruction, op: MaxPool, mask_of: Callable[..., Tensor | None]
    ) -> Callable[..., Tensor]:
        assert i.index is not None
        index = i.index

        def run(s: Slots, n: int, x: Tensor) -> Tensor:
            out = self.new(n, op.shape)
            where = torch.empty(
                index_shape((n, *op.shape), op.kernel), dtype=torch.uint8, device=self.device
            )
            s[index] = where
            max_pool(
                x,
                out,
                where,
                kernel=op.kernel,
                stride=op.stride,
                padding=op.padding,
                dilation=op.dilation,
                activation=op.activation,
                mask=mask_of(s),
            )
            return out

        return run

    # Backward

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


def depthwise_weight(op: Convolution) -> Tensor:
    """A depthwise convolution's weight as its operator takes it: float32 (KH, KW, C)."""
    wanted = op.weight.dtype if op.weight.dtype == torch.float64 else torch.float32
    return op.weight[:, 0].permute(1, 2, 0).to(wanted).contiguous()


def is_dense(op: Op) -> bool:
    """Whether an operation's products are a library's."""
    return isinstance(op, Linear) or (isinstance(op, Convolution) and not op.is_depthwise)
