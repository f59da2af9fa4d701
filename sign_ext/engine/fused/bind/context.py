"""What every binding needs: the program, its prepared constants, and how new tensors are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from sign_ext.compiler.ir.op import Op, Shape, mask_bytes
from sign_ext.compiler.ir.program import Program
from sign_ext.compiler.schedule import Instruction
from sign_ext.ops.activate import activate
from sign_ext.ops.activation import Piecewise
from sign_ext.ops.layout import share_memory

Slots = list[Any]  # the tensors of one step, or None, by the schedule's slot numbers
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
        dtype: of activations and cotangents.
        device: where they are.
        micro_batch: images that are taken through a step at once.
        by_library: places of the operations whose products are left to the library as they are.
        tf32: whether our operators take float32 products in TF32.
        prepared: what `prepares` made of operations' constants, by place.
    """

    program: Program
    dtype: torch.dtype
    device: torch.device
    micro_batch: int = 1
    by_library: frozenset[int] = frozenset()
    tf32: bool = False
    prepared: dict[int, Any] = field(default_factory=dict)

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


BindForward = Callable[[BindContext, Instruction, Any], ForwardKernel]
BindBackward = Callable[[BindContext, Instruction, Any], BackwardKernel]
Prepare = Callable[[BindContext, int, Any], Any]
Registered = TypeVar("Registered", bound=Callable[..., Any])


class Bindings:
    """Functions for kinds of operations; a kind without one has that of the class it derives from.

    Args:
        what: what the functions do, for the message where there is none.
    """

    def __init__(self, what: str) -> None:
        """None yet."""
        self._what = what
        self._functions: dict[type, Callable[..., Any]] = {}

    def __call__(self, *kinds: type) -> Callable[[Registered], Registered]:
        """A decorator that registers a function for kinds of operations."""

        def register(function: Registered) -> Registered:
            for kind in kinds:
                self._functions[kind] = function
            return function

        return register

    def of(self, op: Op) -> Callable[..., Any]:
        """The function for an operation.

        Raises:
            TypeError: there is none for its kind.
        """
        for kind in type(op).__mro__:
            if kind in self._functions:
                return self._functions[kind]
        raise TypeError(f"no function {self._what} {type(op).__name__}")


# A binder takes the context, the instruction and the operation, and returns the function that runs
# it. `prepares` marks what makes of an operation's constants, once, what both of them read in
# `context.prepared`: it takes the context, the operation's place and the operation.
binds = Bindings("binds the forward pass of")
binds_backward = Bindings("binds the backward pass of")
prepares = Bindings("prepares the constants of")


@prepares(Op)
def nothing(context: BindContext, place: int, op: Op) -> None:
    """Most operations run with their constants as they are."""


def tensor_in(s: Slots, slot: int | None) -> Tensor | None:
    """The tensor in a slot, or None for an instruction that has no such slot."""
    return None if slot is None else s[slot]


def to_channels_last(x: Tensor) -> Tensor:
    """A library's result in the layout that our operators take."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()


def epilogue(
    bias: Tensor | None, activation: Piecewise, mask: int | None
) -> Callable[[Slots, Tensor, Tensor | None], Tensor]:
    """What follows a library's product, in one pass over it: bias, residual, activation, bits.

    Args:
        bias: one number a channel, or None.
        activation: after the bias and the residual.
        mask: the slot of its bits, or None.

    Returns:
        From the slots, the product, which is overwritten, and a residual or None to the value.
    """
    nothing_follows = bias is None and activation.is_identity

    def run(s: Slots, y: Tensor, residual: Tensor | None) -> Tensor:
        if residual is not None or not nothing_follows:
            bits = tensor_in(s, mask)
            activate(y, y, bias=bias, residual=residual, activation=activation, mask=bits)
        return y

    return run


def backward_by_torch(pull_back: Callable[[Slots, Tensor], Tensor]) -> BackwardKernel:
    """A backward pass by PyTorch's own operators; another branch's cotangent is added after it.

    Args:
        pull_back: the input's cotangent from the slots and the value's cotangent, which no slot
            holds, unless it is the value's.
    """

    def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
        out = to_channels_last(pull_back(s, g))
        if other is None:
            return out
        return out + other if share_memory(out, g) else out.add_(other)

    return run
