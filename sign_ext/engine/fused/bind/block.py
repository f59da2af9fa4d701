"""Functions that run inverted residuals, forward and back."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sign_ext.compiler.ir.inverted_residual import InvertedResidual
from sign_ext.compiler.schedule import Instruction
from sign_ext.engine.fused.bind.buffers import Buffers, Slots, depthwise_weight
from sign_ext.ops.inverted_residual import Block, inverted_residual, inverted_residual_backward


def block_of(op: InvertedResidual) -> Block:
    """An inverted residual's constants as its operator takes them.

    Args:
        op: the operation.
    """
    return Block(
        expand=op.expand.weight[:, :, 0, 0],
        depthwise=depthwise_weight(op.depthwise),
        project=op.project.weight[:, :, 0, 0],
        expand_bias=op.expand.bias,
        depthwise_bias=op.depthwise.bias,
        project_bias=op.project.bias,
        expand_activation=op.expand.activation,
        depthwise_activation=op.depthwise.activation,
        activation=op.activation,
        stride=op.depthwise.stride,
        padding=op.depthwise.padding,
    )


class BlockBinder(Buffers):
    """Binds the instructions of inverted residuals, whose constants are prepared in `blocks`."""

    def _block_forward(self, i: Instruction, op: InvertedResidual) -> Callable[..., Tensor]:
        packed, mask = self.blocks[i.op], i.mask
        shapes = (op.expand.shape, op.depthwise.shape)

        def run(s: Slots, n: int, x: Tensor, residual: Tensor | None = None) -> Tensor:
            for slot, shape in zip(i.inner, shapes, strict=True):
                if slot is not None:
                    s[slot] = self.new_mask(n, shape)
            first, second = _held(s, i.inner)
            out = self.new(n, op.shape)
            inverted_residual(
                x,
                packed,
                out,
                expand_mask=first,
                depthwise_mask=second,
                residual=residual,
                mask=None if mask is None else s[mask],
            )
            return out

        return run

    def _block_backward(
        self, i: Instruction, op: InvertedResidual
    ) -> Callable[[Slots, Tensor, Tensor | None], Tensor]:
        packed, shape = self.blocks[i.op], op.in_shapes[0]

        def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
            first, second = _held(s, i.inner)
            out = self.new(len(g), shape)
            inverted_residual_backward(
                g, packed, out, expand_mask=first, depthwise_mask=second, other=other
            )
            return out

        return run


def _held(s: Slots, inner: tuple[int | None, int | None]) -> tuple[Tensor | None, Tensor | None]:
    """The tensors in a block's two slots."""
    first, second = inner
    return (
        None if first is None else s[first],
        None if second is None else s[second],
    )
