"""inverted_residual: expand, depthwise and project in one pass, and their input-backward.

The block of MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381): a pointwise convolution to more
channels, a depthwise one, and a pointwise one back. The expanded values never leave the chip; only
the bits of their activations are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.ops.activate import store_activated
from sign_ext.ops.activation import IDENTITY, Piecewise, masked, widen
from sign_ext.ops.depthwise import convolve_channels, depthwise_backward
from sign_ext.ops.layout import Pair, rounded_up
from sign_ext.ops.native import fallback_reason, operator

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
        expand_activation: after the first convolution; a clamp, like the other two.
        depthwise_activation: after the second.
        activation: after the last convolution and the residual.
        stride: of the depthwise convolution, (vertical, horizontal).
        padding: its zeros before each axis (top, left).
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
        bias: of the expanded channels, of the depthwise ones and of the channels out, concatenated,
            (2 · 32 · chunks + P(channels out, 16),), float32; zeros in the backward direction.
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

    @cached_property
    def forward_arguments(self) -> tuple[Any, ...]:
        """What the schema of `inverted_residual` takes for the block."""
        block = self.block
        activations = (block.expand_activation, block.depthwise_activation, block.activation)
        bounds = [bound for activation in activations for bound in activation[:2]]
        return (*self.forward, block.expanded, *bounds, *self._geometry)

    @cached_property
    def backward_arguments(self) -> tuple[Any, ...]:
        """What the schema of `inverted_residual_backward` takes for the block."""
        return (*self.backward[:3], self.block.expanded, *self._geometry)

    @property
    def _geometry(self) -> tuple[Any, ...]:
        block = self.block
        return (*block.kernel, *block.stride, *block.padding, self.precision == "tf32")


def round_to_tf32(x: Tensor) -> Tensor:
    """Float32 to the 10 bits of mantissa that the matrix unit takes, ties away from zero.

    Args:
        x: float32.
    """
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def _padded(x: Tensor, rows: int, columns: int) -> Tensor:
    return F.pad(x, (0, columns - x.shape[1], 0, rows - x.shape[0]))


def _arrays(expand: Tensor, taps: Tensor, project: Tensor, biases: list[Tensor]) -> Arrays:
    """The arrays of one direction.

    Args:
        expand: (E, channels in).
        taps: (KH, KW, E), float32.
        project: (channels out, E).
        biases: of the first, the depthwise and the last convolution.
    """
    expanded = rounded_up(len(expand), CHUNK)
    chunks = expanded // CHUNK
    rows = rounded_up(expand.shape[1], 16)
    columns = rounded_up(len(project), 16)
    first = _padded(expand.t(), rows, expanded).reshape(rows, chunks, CHUNK).transpose(0, 1)
    second = _padded(project.t(), expanded, columns).reshape(chunks, CHUNK, columns)
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
    precisions = {torch.bfloat16: "bfloat16", torch.float32: "tf32" if tf32 else "float32"}
    precision = precisions.get(dtype, "float64")
    expand, project = block.expand.to(dtype), block.project.to(dtype)
    if precision == "tf32":
        expand, project = round_to_tf32(expand), round_to_tf32(project)
    taps = block.depthwise.float()
    lengths = (block.expanded, block.expanded, len(project))
    given_biases = (block.expand_bias, block.depthwise_bias, block.project_bias)
    biases = [
        expand.new_zeros(n) if bias is None else bias
        for bias, n in zip(given_biases, lengths, strict=True)
    ]
    zeros = [expand.new_zeros(n) for n in (block.expanded, block.expanded, expand.shape[1])]
    return PackedBlock(
        block,
        precision,
        _arrays(expand, taps, project, biases),
        _arrays(project.t(), taps, expand.t(), zeros),
    )


def block_runs_natively(x: Tensor) -> bool:
    """Whether the kernel takes tensors like this one; there is none for CPUs.

    Args:
        x: an activation or a cotangent.
    """
    return x.is_cuda and fallback_reason(x) is None


def _fallback_reason(tensor: Tensor) -> str | None:
    return None if block_runs_natively(tensor) else "the block's kernel runs on CUDA only"


@operator(reason=_fallback_reason, flatten={"packed": "forward_arguments"})
def inverted_residual(
    x: Tensor,
    packed: PackedBlock,
    out: Tensor,
    *,
    expand_mask: Tensor | None = None,
    depthwise_mask: Tensor | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
) -> None:
    """A block's value, and the bits of its activations.

    e = activation(expand · x + bias), d = activation(depthwise ∗ e + bias),
    out = activation(project · d + bias [+ residual]). e and d are rounded to x's dtype, sums are
    float32. There is no derivative: autograd does not see what is written.

    Args:
        x: (N, C_in, H, W) in channels_last, float32 or bfloat16 (any dtype where the reference
            runs).
        packed: the block, prepared by `pack_block` for x's dtype and device.
        out: (N, C_out, OH, OW), x's dtype and layout, not overlapping x. Its size says how
            far the depthwise windows go; what they see outside e is zero.
        expand_mask: uint8, `mask_shape((N, E, H, W))`, for the bits of e's activation; None for the
            identity.
        depthwise_mask: the same of d, `mask_shape((N, E, OH, OW))`.
        residual: added before the last activation, like out, not overlapping it, or None.
        mask: `mask_shape(out.shape)`, for the bits of the last activation; None where that is the
            identity.

    Raises:
        RuntimeError: the native operator refuses an argument; the message names it.

    Example:
        >>> one = torch.ones(1, 1)
        >>> block = Block(one, torch.ones(1, 3, 1), one, padding=(0, 1))
        >>> x, y = torch.ones(1, 1, 1, 3), torch.empty(1, 1, 1, 3)
        >>> inverted_residual(x, pack_block(block, torch.float32), y)
        >>> y.flatten().tolist()
        [2.0, 3.0, 2.0]
        >>> block = Block(torch.ones(2, 1), torch.ones(1, 1, 2), torch.ones(1, 2))
        >>> y = torch.empty(1, 1, 1, 1, dtype=torch.float64)
        >>> inverted_residual.reference(torch.ones_like(y), pack_block(block, y.dtype), y)
        >>> y.item()
        2.0
    """
    block = packed.block
    e = x.new_empty((len(x), block.expanded, *x.shape[2:]))
    value = _pointwise(x, block.expand, block.expand_bias)
    store_activated(value, e, block.expand_activation, expand_mask)
    d = x.new_empty((len(x), block.expanded, *out.shape[2:]))
    value = convolve_channels(
        widen(e),
        block.depthwise,
        out.shape[2:],
        block.depthwise_bias,
        block.stride,
        block.padding,
        (1, 1),
    )
    store_activated(value, d, block.depthwise_activation, depthwise_mask)
    value = _pointwise(d, block.project, block.project_bias)
    if residual is not None:
        value = value + residual
    store_activated(value, out, block.activation, mask)


@operator(reason=_fallback_reason, flatten={"packed": "backward_arguments"})
def inverted_residual_backward(
    g: Tensor,
    packed: PackedBlock,
    out: Tensor,
    *,
    expand_mask: Tensor | None = None,
    depthwise_mask: Tensor | None = None,
    other: Tensor | None = None,
) -> None:
    """The cotangent of a block's input.

    Args:
        g: the cotangent of project · d + bias, (N, C_out, OH, OW) in channels_last, float32 or
            bfloat16 (any dtype where the reference runs).
        packed: as for `inverted_residual`.
        out: (N, C_in, H, W), g's dtype and layout, not overlapping g.
        expand_mask: the bits that `inverted_residual` wrote, or None.
        depthwise_mask: the same.
        other: another branch's cotangent of the input, added; like out, not overlapping it. It is g
            itself where the block's input was its residual; or None.

    Raises:
        RuntimeError: the native operator refuses an argument; the message names it.

    Example:
        >>> one = torch.ones(1, 1)
        >>> block = Block(one, torch.tensor([[[1.0], [2.0], [4.0]]]), one, padding=(0, 1))
        >>> g, out = torch.ones(1, 1, 1, 3), torch.empty(1, 1, 1, 3)
        >>> inverted_residual_backward(g, pack_block(block, torch.float32), out)
        >>> out.flatten().tolist()
        [3.0, 7.0, 6.0]
        >>> block = Block(torch.ones(2, 1), torch.ones(1, 1, 2), torch.ones(1, 2))
        >>> g = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        >>> out = torch.empty_like(g)
        >>> inverted_residual_backward.reference(g, pack_block(block, g.dtype), out, other=g)
        >>> out.item()
        3.0
    """
    block = packed.block
    value = _pointwise(g, block.project.t())
    d = masked(value, depthwise_mask, 0.0).to(g.dtype)
    e = g.new_empty((len(g), block.expanded, *out.shape[2:]))
    depthwise_backward.reference(
        d, block.depthwise, e, x_mask=expand_mask, stride=block.stride, padding=block.padding
    )
    value = _pointwise(e, block.expand.t())
    out.copy_(value if other is None else value + other)


@inverted_residual.register_fake
@inverted_residual_backward.register_fake
def _(*_: object) -> None:
    """What is written, is written in place."""


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A pointwise convolution in float32 or wider, with the weight rounded to x's dtype."""
    wide = widen(x)
    rounded = weight.to(x.dtype).to(wide.dtype)
    value = F.conv2d(wide, rounded[:, :, None, None])
    return value if bias is None else value + bias.to(value.dtype)[:, None, None]
