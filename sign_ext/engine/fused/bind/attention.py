"""Attention by the library's kernels where they take it, else by its formula."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sign_ext.compiler.ir.attention import Attention
from sign_ext.compiler.ir.viewed import gather_cotangents, store
from sign_ext.compiler.schedule import Instruction
from sign_ext.engine.fused.bind.context import (
    BackwardKernel,
    BindContext,
    ForwardKernel,
    Slots,
    binds,
    binds_backward,
    prepares,
)
from sign_ext.engine.fused.bind.viewed import slots_again

_aten = torch.ops.aten
_ROW = 16  # elements by which the rows of a bias are padded: what CUDA kernels load at once


class Formula:
    """By matrix products and a softmax, of which the logarithms of the sums are kept."""

    def __init__(self, op: Attention) -> None:
        """Of an operation."""
        self.op = op

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Any]:
        """The value, (N, ..., T, E), and what is kept."""
        return self.op.value(q, k, v)

    def backward(self, g: Tensor, xs: Sequence[Tensor], y: Tensor, kept: Any) -> list[Tensor]:
        """The cotangents of q, k and v."""
        return self.op.cotangents((0, 1, 2), g, xs, y, kept)


class Library(Formula, ABC):
    """What libraries' kernels share: they take (batch, heads, positions, features).

    Windows are merged with the images: in memory they are next to each other.
    """

    def four(self, x: Tensor, heads: int) -> Tensor:
        """An operand as they take it."""
        if x.dim() == 3:
            x = x.unsqueeze(1)
        x = x.reshape(-1, *x.shape[-3:])
        return x if x.shape[1] == heads else x.expand(-1, heads, -1, -1)

    @property
    def heads(self) -> int:
        """Of q."""
        lead = self.op.views[0].shape[:-2]
        return lead[-1] if lead else 1

    def fours(self, *xs: Tensor) -> list[Tensor]:
        """Several operands."""
        return [self.four(x, self.heads) for x in xs]

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Any]:
        """The value and what the kernel keeps."""
        value, kept = self.run(*self.fours(q, k, v))
        return value.reshape(len(q), *self.op.out.shape), kept

    def backward(self, g: Tensor, xs: Sequence[Tensor], y: Tensor, kept: Any) -> list[Tensor]:
        """Summed over the heads that share a head of k and v."""
        q, k, v, g4, y4 = self.fours(*xs, g, y)
        found = self.run_backward(g4, q, k, v, y4, kept)
        three = []
        for part, x in zip(found, xs, strict=True):
            if x.dim() > 3 and x.shape[-3] != part.shape[1]:
                part = part.sum(1, keepdim=True)
            three.append(part.reshape(x.shape))
        return three

    @abstractmethod
    def run(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Any]:
        """The kernel."""

    @abstractmethod
    def run_backward(
        self, g: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, kept: Any
    ) -> Sequence[Tensor]:
        """Its backward."""


class OnCpu(Library):
    """The flash kernel of PyTorch's CPU library.

    A bias of several windows it takes for each of the batch, so that one is kept for as many images
    as come at once.
    """

    def __init__(self, op: Attention, images: int = 1) -> None:
        """Of an operation, for batches of about `images`."""
        super().__init__(op)
        bias = op.bias
        self._windows = 1 if bias is None else len(bias)
        self._bias = bias if self._windows == 1 else self._for_images(images)

    def _for_images(self, images: int) -> Tensor:
        assert self.op.bias is not None
        return self.op.bias.repeat(images, 1, 1, 1)

    def _options(self, batch: int) -> dict[str, Any]:
        bias = self._bias
        if bias is not None and self._windows > 1:
            bias = bias if batch <= len(bias) else self._for_images(batch // self._windows)
            bias = bias[:batch]
        return {"attn_mask": bias, "scale": self.op.scale}

    def run(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Any]:
        """Forward."""
        value, sums = _aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, self.op.causal, **self._options(len(q))
        )
        return value, sums

    def run_backward(
        self, g: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, kept: Any
    ) -> Sequence[Tensor]:
        """Backward."""
        found: Sequence[Tensor] = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            g, q, k, v, y, kept, 0.0, self.op.causal, **self._options(len(q))
        )
        return found


class Flash(Library):
    """The flash kernel on CUDA, in half precision and without a bias."""

    def run(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Any]:
        """Forward."""
        value, sums, *rest = _aten._scaled_dot_product_flash_attention(
            q, k, v, 0.0, self.op.causal, scale=self.op.scale
        )
        return value, (sums, rest)

    def run_backward(
        self, g: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, kept: Any
    ) -> Sequence[Tensor]:
        """Backward."""
        sums, (first, second, longest_q, longest_k, seed, offset, _) = kept
        found: Sequence[Tensor] = _aten._scaled_dot_product_flash_attention_backward(
            *(g, q, k, v, y, sums, first, second, longest_q, longest_k),
            *(0.0, self.op.causal, seed, offset),
            scale=self.op.scale,
        )
        return found


class Efficient(Library):
    """The memory-efficient kernel on CUDA."""

    def _bias(self, q: Tensor, k: Tensor) -> Tensor | None:
        """The bias of each of the batch; its rows, which `prepares` padded, begin aligned."""
        if self.op.bias is None:
            return None
        batch, heads, rows, _ = q.shape
        bias = self.op.bias[..., : k.shape[-2]]
        if len(bias) > 1:
            images = batch // len(bias)
            whole = self.op.bias.repeat(images, 1, 1, 1)
            bias = whole[..., : k.shape[-2]]
        return bias.expand(batch, heads, rows, -1)

    def run(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Any]:
        """Forward."""
        value, *kept = _aten._scaled_dot_product_efficient_attention(
            q, k, v, self._bias(q, k), True, 0.0, self.op.causal, scale=self.op.scale
        )
        return value, kept

    def run_backward(
        self, g: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, kept: Any
    ) -> Sequence[Tensor]:
        """Backward."""
        found = _aten._scaled_dot_product_efficient_attention_backward(
            *(g, q, k, v, self._bias(q, k), y, *kept),
            *(0.0, [True, True, True, False], self.op.causal),
            scale=self.op.scale,
        )
        return list(found)[:3]


def kernel_of(op: Attention, dtype: torch.dtype, device: torch.device, images: int = 1) -> Formula:
    """What runs an operation.

    On a CPU the flash kernel takes float32 and float64; in half precision its backward pass is
    slower than the formula's products.

    Args:
        op: with its bias as `prepares` leaves it.
        dtype: of activations.
        device: where they are.
        images: batches will have about as many.
    """
    if not op.suits_library or _reads_nothing(op):
        return Formula(op)
    if device.type == "cpu":
        return OnCpu(op, images) if dtype in (torch.float32, torch.float64) else Formula(op)
    aligned = op.views[0].shape[-1] % (16 // dtype.itemsize) == 0
    if device.type != "cuda" or dtype == torch.float64 or not aligned:
        return Formula(op)
    if op.bias is not None or dtype == torch.float32 or op.views[0].shape[-1] > 256:
        return Efficient(op)
    return Flash(op) if torch.cuda.get_device_capability(device) >= (8, 0) else Efficient(op)


def _reads_nothing(op: Attention) -> bool:
    """Whether the bias shuts a row out from everything, which kernels differ in."""
    return op.bias is not None and bool((op.bias == -torch.inf).all(-1).any())


@prepares(Attention)
def kernel(context: BindContext, place: int, op: Attention) -> Formula:
    """The kernel, with the bias in the dtype of activations and in memory as it reads it."""
    op = op.with_constants(lambda c: c.to(context.dtype))
    found = kernel_of(op, context.dtype, context.device, context.micro_batch)
    if op.bias is not None and isinstance(found, Efficient):
        *sizes, rows, _ = op.bias.shape
        columns = op.views[1].shape[-2]
        padded = op.bias.new_zeros((*sizes, rows, -(-columns // _ROW) * _ROW))
        padded[..., :columns] = op.bias
        return Efficient(op.with_constants(lambda _: padded))
    return found


@binds(Attention)
def forward(context: BindContext, i: Instruction, op: Attention) -> ForwardKernel:
    """The value, stored with the heads of a position side by side, as kernels write it."""
    (slot,), run_kernel = i.own, context.prepared[i.op].forward

    def run(s: Slots, images: int, *inputs: Tensor) -> Tensor:
        pairs = zip(op.operands, op.views, strict=True)
        value, s[slot] = run_kernel(*[view.on(inputs[number]) for number, view in pairs])
        return store(value, op.shape, op.out)

    return run


@binds_backward(Attention)
def backward(context: BindContext, i: Instruction, op: Attention) -> BackwardKernel:
    """The cotangent of one input. The first that is asked for computes all of them."""
    (slot,), run_kernel, side = i.own, context.prepared[i.op].backward, i.side
    pairs = list(zip(op.operands, op.views, strict=True))

    def compute(s: Slots, g: Tensor) -> list[Tensor | None]:
        read, value = slots_again(i, op)
        stored = [s[slot] for slot in read if slot is not None]
        xs = [view.on(stored[number]) for number, view in pairs]
        assert value is not None
        found = run_kernel(op.out.on(g), xs, op.out.on(s[value]), s[slot])
        return [
            gather_cotangents(
                shape,
                tuple(op.views[o] for o in op.of_input(number)),
                [found[o] for o in op.of_input(number)],
            )
            for number, shape in enumerate(op.in_shapes)
        ]

    def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
        if side == 0:
            s[slot] = compute(s, g)
        out: Tensor = s[slot][side]
        s[slot][side] = None
        return out if other is None else out.add_(other)

    return run
