"""What the functions that run instructions share: the program, its products, new tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sign_ext.compiler.ir.dense import Convolution, Linear
from sign_ext.compiler.ir.op import Op, Shape, mask_bytes
from sign_ext.compiler.ir.program import Program
from sign_ext.compiler.schedule import Slot
from sign_ext.engine.fused.products.torch import Dense
from sign_ext.ops.inverted_residual import PackedBlock

Slots = list[Tensor | None]
Run = Callable[[Slots], None]


def as_stored(x: Tensor) -> Tensor:
    """A library's result in the layout that operators take: channels innermost."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()


@dataclass
class Buffers:
    """What binding needs to know, and the tensors that it allocates.

    Attributes:
        program: what is run.
        slots: of the schedule.
        dense: the products of each convolution and linear operation, by its place.
        dtype: of activations and cotangents.
        device: where they are.
        blocks: the constants of each inverted residual, by its place.
    """

    program: Program
    slots: tuple[Slot, ...]
    dense: dict[int, Dense]
    dtype: torch.dtype
    device: torch.device
    blocks: dict[int, PackedBlock] = field(default_factory=dict)

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


def depthwise_weight(op: Convolution) -> Tensor:
    """A depthwise convolution's weight as its operator takes it: float32 (KH, KW, C)."""
    wanted = op.weight.dtype if op.weight.dtype == torch.float64 else torch.float32
    return op.weight[:, 0].permute(1, 2, 0).to(wanted).contiguous()


def is_dense(op: Op) -> bool:
    """Whether an operation's products are a library's."""
    return isinstance(op, Linear) or (isinstance(op, Convolution) and not op.is_depthwise)
