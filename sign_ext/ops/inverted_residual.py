"""inverted_residual: expand, depthwise and project in one pass, and their input-backward.

The block of MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381): a pointwise convolution to more
channels, a depthwise one, and a pointwise one back. The expanded values never leave the chip; of
them only the activations' bits are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.ops.activate import pack_mask_reference
from sign_ext.ops.activation import IDENTITY, Piecewise, masked
from sign_ext.ops.depthwise import behind, depthwise_backward_reference
from sign_ext.ops.layout import rounded_up
from sign_ext.ops.native import NATIVE, runs_natively

# An inverted residual's constants, and as the kernel reads them.


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


def block_runs_natively(x: Tensor) -> bool:
    """Whether the kernel takes tensors like this one; there is none for CPUs.

    Args:
        x: an activation or a cotangent.
    """
    return x.is_cuda and runs_natively(x)


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
        out: (N, C_out, OH, OW), x's dtype and layout, apart from x. Its size says how far the
            depthwise windows go; what they see outside e is zero.
        expand_mask: uint8, `mask_shape((N, E, H, W))`, for the bits of e's activation; None where
            that is the identity.
        depthwise_mask: the same of d, `mask_shape((N, E, OH, OW))`.
        residual: added before the last activation, as out and apart from it, or None.
        mask: `mask_shape(out.shape)`, for the bits of the last activation; None where that is the
            identity.

    Raises:
        RuntimeError: the native operator refuses an argument; the message names it.

    Example:
        >>> from sign_ext.ops.inverted_residual import pack_block
        >>> one = torch.ones(1, 1)
        >>> block = Block(one, torch.ones(1, 3, 1), one, padding=(0, 1))
        >>> x, y = torch.ones(1, 1, 1, 3), torch.empty(1, 1, 1, 3)
        >>> inverted_residual(x, pack_block(block, torch.float32), y)
        >>> y.flatten().tolist()
        [2.0, 3.0, 2.0]
    """
    if not block_runs_natively(x):
        inverted_residual_reference(
            x,
            packed.block,
            out,
            expand_mask=expand_mask,
            depthwise_mask=depthwise_mask,
            residual=residual,
            mask=mask,
        )
        return
    block, arrays = packed.block, packed.forward
    torch.ops.sign_ext.inverted_residual(
        x,
        out,
        arrays.first,
        arrays.taps,
        arrays.second,
        arrays.bias,
        expand_mask,
        depthwise_mask,
        residual,
        mask,
        block.expanded,
        *block.expand_activation[:2],
        *block.depthwise_activation[:2],
        *block.activation[:2],
        *block.kernel,
        *block.stride,
        *block.padding,
        packed.precision == "tf32",
    )


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
        out: (N, C_in, H, W), g's dtype and layout, apart from g.
        expand_mask: the bits that `inverted_residual` wrote, or None.
        depthwise_mask: the same.
        other: another branch's cotangent of the input, added; as out, and apart from it; g itself
            where the block's input was its residual; or None.

    Raises:
        RuntimeError: the native operator refuses an argument; the message names it.

    Example:
        >>> from sign_ext.ops.inverted_residual import pack_block
        >>> one = torch.ones(1, 1)
        >>> block = Block(one, torch.tensor([[[1.0], [2.0], [4.0]]]), one, padding=(0, 1))
        >>> g, out = torch.ones(1, 1, 1, 3), torch.empty(1, 1, 1, 3)
        >>> inverted_residual_backward(g, pack_block(block, torch.float32), out)
        >>> out.flatten().tolist()
        [3.0, 7.0, 6.0]
    """
    if not block_runs_natively(g):
        inverted_residual_backward_reference(
            g,
            packed.block,
            out,
            expand_mask=expand_mask,
            depthwise_mask=depthwise_mask,
            other=other,
        )
        return
    block, arrays = packed.block, packed.backward
    torch.ops.sign_ext.inverted_residual_backward(
        g,
        out,
        arrays.first,
        arrays.taps,
        arrays.second,
        expand_mask,
        depthwise_mask,
        other,
        block.expanded,
        *block.kernel,
        *block.stride,
        *block.padding,
        packed.precision == "tf32",
    )


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """A pointwise convolution, in x's dtype widened to float32 at least."""
    wide = _wide(x)
    rounded = weight.to(x.dtype).to(wide.dtype)
    return F.conv2d(wide, rounded[:, :, None, None])


def _finished(
    value: Tensor,
    bias: Tensor | None,
    activation: Piecewise,
    out: Tensor,
    mask: Tensor | None,
    residual: Tensor | None = None,
) -> None:
    """out = activation(value + bias [+ residual]), and its bits."""
    if bias is not None:
        value = value + bias.to(value.dtype)[:, None, None]
    if residual is not None:
        value = value + residual
    out.copy_(activation.apply(value))
    if mask is not None:
        pack_mask_reference(out, mask, activation)


def inverted_residual_reference(
    x: Tensor,
    block: Block,
    out: Tensor,
    *,
    expand_mask: Tensor | None = None,
    depthwise_mask: Tensor | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
) -> None:
    """The definition of `inverted_residual` in plain torch, for any floating dtype and device.

    Args:
        x: as for `inverted_residual`.
        block: the block.
        out: as for `inverted_residual`.
        expand_mask: as for `inverted_residual`.
        depthwise_mask: as for `inverted_residual`.
        residual: as for `inverted_residual`.
        mask: as for `inverted_residual`.

    Example:
        >>> block = Block(torch.ones(2, 1), torch.ones(1, 1, 2), torch.ones(1, 2))
        >>> y = torch.empty(1, 1, 1, 1, dtype=torch.float64)
        >>> inverted_residual_reference(torch.ones_like(y), block, y)
        >>> y.item()
        2.0
    """
    value = _pointwise(x, block.expand)
    e = torch.empty_like(value, dtype=x.dtype)
    _finished(value, block.expand_bias, block.expand_activation, e, expand_mask)
    d = x.new_empty((len(x), block.expanded, *out.shape[2:]))
    filters = block.depthwise.to(value.dtype).permute(2, 0, 1)[:, None]
    below, right = (
        behind(*axis, dilation=1)
        for axis in zip(
            x.shape[2:], out.shape[2:], block.kernel, block.stride, block.padding, strict=True
        )
    )
    value = F.conv2d(
        F.pad(_wide(e), (block.padding[1], right, block.padding[0], below)),
        filters,
        None,
        block.stride,
        groups=block.expanded,
    )
    _finished(value, block.depthwise_bias, block.depthwise_activation, d, depthwise_mask)
    value = _pointwise(d, block.project)
    _finished(value, block.project_bias, block.activation, out, mask, residual)


def inverted_residual_backward_reference(
    g: Tensor,
    block: Block,
    out: Tensor,
    *,
    expand_mask: Tensor | None = None,
    depthwise_mask: Tensor | None = None,
    other: Tensor | None = None,
) -> None:
    """The definition of `inverted_residual_backward` in plain torch, for any dtype and device.

    Args:
        g: as for `inverted_residual_backward`.
        block: the block.
        out: as for `inverted_residual_backward`.
        expand_mask: as for `inverted_residual_backward`.
        depthwise_mask: as for `inverted_residual_backward`.
        other: as for `inverted_residual_backward`.

    Example:
        >>> block = Block(torch.ones(2, 1), torch.ones(1, 1, 2), torch.ones(1, 2))
        >>> g = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        >>> out = torch.empty_like(g)
        >>> inverted_residual_backward_reference(g, block, out, other=g)
        >>> out.item()
        3.0
    """
    value = _pointwise(g, block.project.t())
    d = masked(value, depthwise_mask, 0.0).to(g.dtype)
    e = g.new_empty((len(g), block.expanded, *out.shape[2:]))
    depthwise_backward_reference(
        d,
        block.depthwise,
        e,
        x_mask=expand_mask,
        stride=block.stride,
        padding=block.padding,
    )
    value = _pointwise(e, block.expand.t())
    out.copy_(value if other is None else value + other)


def _fake(*_: object) -> None:
    """Nothing is returned; what is written is written in place."""


if NATIVE.loaded:
    torch.library.register_fake("sign_ext::inverted_residual", _fake)
    torch.library.register_fake("sign_ext::inverted_residual_backward", _fake)
