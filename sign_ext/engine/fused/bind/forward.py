"""Functions that run the instructions of a forward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sign_ext.compiler.ir.dense import Convolution
from sign_ext.compiler.ir.inverted_residual import InvertedResidual
from sign_ext.compiler.ir.op import Op
from sign_ext.compiler.ir.pointwise import SMOOTH, Pointwise, Smooth
from sign_ext.compiler.ir.pooling import MaxPool
from sign_ext.compiler.schedule import Instruction
from sign_ext.engine.fused.bind.block import BlockBinder
from sign_ext.engine.fused.bind.buffers import Run, Slots, as_stored, depthwise_weight
from sign_ext.ops.activate import activate
from sign_ext.ops.depthwise import depthwise
from sign_ext.ops.max_pool import index_shape, max_pool


class ForwardBinder(BlockBinder):
    """Binds the instructions "cast" and "forward"."""

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
        if isinstance(op, InvertedResidual):
            return self._block_forward(i, op)
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

    def _depthwise(
        self, op: Convolution, mask_of: Callable[..., Tensor | None]
    ) -> Callable[..., Tensor]:
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
