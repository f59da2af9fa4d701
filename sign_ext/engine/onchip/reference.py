"""What a step on chip computes, in plain torch: exact sums, rounded where the kernel rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from sign_ext.engine.onchip.layers import OnChipLayer


class _Kept(NamedTuple):
    passes: Tensor
    winners: Tensor | None


def rounded(value: Tensor) -> Tensor:
    """To bfloat16 and back: how values, cotangents and weights are stored.

    Args:
        value: float64.
    """
    return value.float().bfloat16().to(value.dtype)


def _behind(layer: OnChipLayer) -> tuple[int, int]:
    """Zeros behind the image (bottom, right), negative where rows there are never read."""
    kernel, sizes = layer.weight.shape[2:], layer.in_shape[1:]
    outs = layer.conv_shape[1:]
    axes = zip(outs, layer.stride, kernel, sizes, layer.padding, strict=True)
    bottom, right = ((out - 1) * s + k - size - pad for out, s, k, size, pad in axes)
    return bottom, right


def forward_layer(
    layer: OnChipLayer, value: Tensor, added: Tensor | None = None
) -> tuple[Tensor, _Kept]:
    """A layer's output and what it keeps.

    Args:
        layer: any layer.
        value: (N, C, H, W), float64.
        added: what is added before the activation, or None.
    """
    (top, left), (bottom, right) = layer.padding, _behind(layer)
    padded = F.pad(value, (left, right, top, bottom))
    bias = None if layer.bias is None else layer.bias.to(value.dtype)
    result = F.conv2d(padded, rounded(layer.weight.to(value.dtype)), bias, layer.stride)
    if added is not None:
        result = result + added
    winners = None
    if layer.pooled:
        result, winners = F.max_pool2d(result, 2, return_indices=True)
    result = layer.activation.apply(result)
    return rounded(result), _Kept(layer.activation.passes(result), winners)


def pulled_back(layer: OnChipLayer, kept: _Kept, cotangent: Tensor) -> Tensor:
    """The cotangent of what a layer's convolution (and sum) gives, rounded.

    Args:
        layer: any layer.
        kept: from `forward_layer`.
        cotangent: of its output, float64.
    """
    g = cotangent
    if not layer.activation.is_identity:
        g = layer.activation.pull_back(g, kept.passes)
    if kept.winners is not None:
        channels, height, width = layer.conv_shape
        whole = g.new_zeros((len(g), channels, height * width))
        whole.scatter_(2, kept.winners.flatten(2), g.flatten(2))
        g = whole.reshape(len(g), *layer.conv_shape)
    return rounded(g)


def backward_layer(layer: OnChipLayer, g: Tensor) -> Tensor:
    """The cotangent of a layer's input, not rounded.

    Args:
        layer: any layer.
        g: of what its convolution gives, float64.
    """
    (top, left), (bottom, right) = layer.padding, _behind(layer)
    channels, height, width = layer.in_shape
    size = (len(g), channels, height + top + bottom, width + left + right)
    weight = rounded(layer.weight.to(g.dtype))
    x = conv2d_input(size, weight, g, layer.stride)
    return F.pad(x, (-left, -right, -top, -bottom))


@torch.no_grad()
def delta_reference(
    layers: tuple[OnChipLayer, ...],
    images: Tensor,
    seed: Callable[[Tensor], Tensor],
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """δ of a network on chip.

    Args:
        layers: those on chip.
        images: (N, C, H, W), pixel units (0–255).
        seed: the last value's cotangent from the last value, both (N, C, H, W).
        scale: (C,) of an affine map before the first layer, or None.
        shift: (C,) of it, or None.

    Returns:
        (N, C, H, W), float64.
    """
    x = images.double()
    factor = None if scale is None else scale.to(x.dtype)[:, None, None]
    if factor is not None:
        x = x * factor
    if shift is not None:
        x = x + shift.to(x.dtype)[:, None, None]
    values = {-1: rounded(x)}
    kept = []
    for i, layer in enumerate(layers):
        added = None if layer.adds is None else values[layer.adds]
        values[i], bits = forward_layer(layer, values[layer.reads], added)
        kept.append(bits)
    last = len(layers) - 1
    # Of each value so far: stored in bfloat16 where another convolution is still to add to it.
    cotangents: dict[int, Tensor] = {last: seed(values[last]).double()}
    sums: dict[int, Tensor] = {}  # that come through an addition
    for i in range(last, -1, -1):
        layer = layers[i]
        if i not in cotangents:  # only added
            cotangents[i] = sums.pop(i)
        g = pulled_back(layer, kept[i], cotangents[i])
        if layer.adds is not None:
            sums[layer.adds] = g
        part = backward_layer(layer, g)
        if layer.reads in cotangents:
            part = part + rounded(cotangents[layer.reads])
        if not any(other.reads == layer.reads for other in layers[:i]):
            part = part + sums.pop(layer.reads, 0)
        cotangents[layer.reads] = part
    delta = cotangents[-1]
    return delta if factor is None else delta * factor
