"""An inverted residual's constants, and as the kernel reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.ops.activation import IDENTITY, Piecewise
from sign_ext.ops.rounding import rounded_up

Pair = tuple[int, int]
CHUNK = 32  # expanded channels that the kernel takes at a time


class Block(NamedTuple):
    """Expand, depthwise, project.

    Attributes:
        expand: (E, C_in).
        depthwise: (KH, KW, E).
        project: (C_out, E).
        expand_bias: (E,), or None.
        depthwise_bias: (E,), or None.
        project_bias: (C_out,), or None.
        expand_activation: behind the first convolution; a clamp, as the other two.
        depthwise_activation: behind the second.
        activation: behind the last and the residual.
        stride: of the depthwise convolution, (vertical, horizontal).
        padding: its zeros in front (top, left).
    """

    expand: Tensor
    depthwise: Tensor
    project: Tensor
    expand_bias: Tensor | None = None
    depthwise_bias: Tensor | None = None
    project_bias: Tensor | None = None
    expand_activation: Piecewise = IDENTITY
    depthwise_activation: Piecewise = IDENTITY
    activation: Piecewise = IDENTITY
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)

    @property
    def expanded(self) -> int:
        """E: the channels between the pointwise convolutions."""
        return self.expand.shape[0]

    @property
    def kernel(self) -> Pair:
        """(KH, KW)."""
        return (self.depthwise.shape[0], self.depthwise.shape[1])


class Arrays(NamedTuple):
    """What the kernel reads, in one direction; P(n, m) is n rounded up to a multiple of m.

    Attributes:
        first: the product to expanded channels, (chunks, P(channels in, 16), 32).
        taps: the depthwise weights, float32 (chunks, KH · KW, 32).
        second: the product from expanded channels, (chunks, 32, P(channels out, 16)).
        bias: forward: of the expanded channels, of the depthwise ones and of the channels out, one
            behind the other, (2 · 32 · chunks + P(channels out, 16),), float32.
    """

    first: Tensor
    taps: Tensor
    second: Tensor
    bias: Tensor


@dataclass(frozen=True, eq=False)
class PackedBlock:
    """A block, and its arrays for one precision and device.

    Attributes:
        block: its constants.
        precision: "float32", "tf32" or "bfloat16" ("float64" where only the reference runs).
        forward: arrays of the forward pass.
        backward: arrays of the input-backward.
    """

    block: Block
    precision: str
    forward: Arrays
    backward: Arrays


def round_to_tf32(x: Tensor) -> Tensor:
    """Float32 to the 10 bits of mantissa that the matrix unit takes, ties away from zero.

    Args:
        x: float32.
    """
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def _padded(x: Tensor, rows: int, columns: int) -> Tensor:
    return F.pad(x, (0, columns - x.shape[1], 0, rows - x.shape[0]))


def _arrays(to: Tensor, taps: Tensor, back: Tensor, biases: list[Tensor]) -> Arrays:
    """The arrays of one direction.

    Args:
        to: (E, channels in).
        taps: (KH, KW, E), float32.
        back: (channels out, E).
        biases: of the first, the depthwise and the last convolution.
    """
    expanded = rounded_up(len(to), CHUNK)
    chunks = expanded // CHUNK
    rows = rounded_up(to.shape[1], 16)
    columns = rounded_up(len(back), 16)
    first = _padded(to.t(), rows, expanded).reshape(rows, chunks, CHUNK).transpose(0, 1)
    second = _padded(back.t(), expanded, columns).reshape(chunks, CHUNK, columns)
    flat = _padded(taps.flatten(0, 1), taps.shape[0] * taps.shape[1], expanded)
    by_chunk = flat.reshape(len(flat), chunks, CHUNK).transpose(0, 1)
    sizes = (expanded, expanded, columns)
    bias = [F.pad(b.float(), (0, n - len(b))) for b, n in zip(biases, sizes, strict=True)]
    return Arrays(first.contiguous(), by_chunk.contiguous(), second.contiguous(), torch.cat(bias))


def pack_block(block: Block, dtype: torch.dtype, *, tf32: bool = False) -> PackedBlock:
    """Prepare a block for activations of a dtype.

    Args:
        block: its constants, on the device where they are needed.
        dtype: of activations and cotangents.
        tf32: whether float32 products are taken by the matrix unit, in TF32.

    Raises:
        ValueError: an activation is a leaky ReLU.
    """
    activations = (block.expand_activation, block.depthwise_activation, block.activation)
    if any(activation.slope for activation in activations):
        raise ValueError(
            "an inverted residual's activations must be clamps (ReLU, ReLU6, hardtanh, none), and "
            "one is a leaky ReLU: run its convolutions one by one"
        )
    narrow = {torch.bfloat16: "bfloat16", torch.float32: "tf32" if tf32 else "float32"}
    precision = narrow.get(dtype, "float64")
    expand, project = block.expand.to(dtype), block.project.to(dtype)
    if precision == "tf32":
        expand, project = round_to_tf32(expand), round_to_tf32(project)
    taps = block.depthwise.float()
    lengths = (block.expanded, block.expanded, len(project))
    given = (block.expand_bias, block.depthwise_bias, block.project_bias)
    biases = [
        expand.new_zeros(n) if bias is None else bias
        for bias, n in zip(given, lengths, strict=True)
    ]
    none = [expand.new_zeros(n) for n in (block.expanded, block.expanded, expand.shape[1])]
    return PackedBlock(
        block,
        precision,
        _arrays(expand, taps, project, biases),
        _arrays(project.t(), taps, expand.t(), none),
    )
