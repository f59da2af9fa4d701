"""What every binding needs: the program, its prepared constants, and how new tensors are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sign_ext.compiler.ir.op import Shape, mask_bytes
from sign_ext.compiler.ir.program import Program
from sign_ext.engine.fused.products.torch import Dense
from sign_ext.ops.inverted_residual import PackedBlock

Slots = list[Tensor | None]  # the tensors of one step, by the schedule's slot numbers
Run = Callable[[Slots], None]  # runs one instruction
# (slots, number of images, *inputs) → the operation's value.
ForwardKernel = Callable[..., Tensor]
# (slots, cotangent of the value, another branch's cotangent of the input) → the input's cotangent.
BackwardKernel = Callable[[Slots, Tensor, Tensor | None], Tensor]


@dataclass
class BindContext:
    """What one program's instructions are bound with.

    Attributes:
        program: what is run.
        dense: the products of each dense convolution and linear operation, by its place.
        blocks: the constants of each inverted residual, by its place.
        dtype: of activations and cotangents.
        device: where they are.
    """

    program: Program
    dense: dict[int, Dense]
    dtype: torch.dtype
    device: torch.device
    blocks: dict[int, PackedBlock] = field(default_factory=dict)

    def new(self, images: int, shape: Shape) -> Tensor:
        """An activation or a cotangent, not initialized."""
        if len(shape) == 3:
            return torch.empty(
                (images, *shape),
                dtype=self.dtype,
                device=self.device,
                memory_format=torch.channels_last,
            )
        return torch.empty((images, *shape), dtype=self.dtype, device=self.device)

    def new_mask(self, images: int, shape: Shape) -> Tensor:
        """A bit mask, not initialized."""
        row_bytes = (shape[0] + 7) // 8
        rows = images * mask_bytes(shape) // max(row_bytes, 1)
        return torch.empty((rows, row_bytes), dtype=torch.uint8, device=self.device)


def tensor_in(s: Slots, slot: int | None) -> Tensor | None:
    """The tensor in a slot, or None for an instruction that has no such slot."""
    return None if slot is None else s[slot]


def to_channels_last(x: Tensor) -> Tensor:
    """A library's result in the layout that our operators take."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()


def backward_by_torch(pull_back: Callable[[Slots, Tensor], Tensor]) -> BackwardKernel:
    """A backward pass by PyTorch's own operators; another branch's cotangent is added after it.

    Args:
        pull_back: the input's cotangent from the slots and the value's cotangent.
    """

    def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
        out = to_channels_last(pull_back(s, g))
        return out if other is None else out + other

    return run
