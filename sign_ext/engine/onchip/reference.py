"""The definition of a step on chip, in plain torch: exact sums, rounded where the kernel rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from sign_ext.engine.onchip.partition import OnChipLayer

Rounding = Callable[[Tensor], Tensor]


class Bits(NamedTuple):
    """What a layer keeps of an image.

    Attributes:
        passes: bool, (N, C, H, W) of the output: whether the activation's derivative is 1.
        winners: int64, the same shape: the position of each window's maximum in the H · W of the
            convolution's result; None without pooling.
    """

    passes: Tensor
    winners: Tensor | None


@dataclass(frozen=True)
class LayerRun:
    """A layer's forward pass.

    Attributes:
        sums: the convolution with the bias and the added value, (N, C, H, W), float64.
        variance: of `sums`, if all values before it were rounded independently of each other.
        value: the output.
        value_variance: that of the output.
        bits: what the layer keeps.
    """

    sums: Tensor
    variance: Tensor
    value: Tensor
    value_variance: Tensor
    bits: Bits


def rounded(value: Tensor) -> Tensor:
    """To bfloat16 and back: how values, cotangents and weights are stored.

    Args:
        value: float64.
    """
    return value.float().bfloat16().to(value.dtype)


def exact(value: Tensor) -> Tensor:
    """The value unchanged: the rounding of a step that does not round.

    Args:
        value: float64.
    """
    return value


def _end_padding(layer: OnChipLayer) -> tuple[int, int]:
    """Zeros after the image (bottom, right), negative where rows there are never read."""
    kernel, sizes = layer.weight.shape[2:], layer.in_shape[1:]
    outs = layer.conv_shape[1:]
    axes = zip(outs, layer.stride, kernel, sizes, layer.padding, strict=True)
    bottom, right = ((out - 1) * s + k - size - pad for out, s, k, size, pad in axes)
    return bottom, right


def _rounding_variance(value: Tensor) -> Tensor:
    """Of rounding to bfloat16: uniform in half a unit in the last place, up to 2^-8 of a value."""
    return value**2 * (2.0**-16 / 3)


def forward_layer(
    layer: OnChipLayer, read: LayerRun, added: LayerRun | None = None, rounding: Rounding = rounded
) -> LayerRun:
    """A layer's forward pass.

    Args:
        layer: any layer.
        read: the layer whose output is the input.
        added: the layer whose output is added before the activation, or None.
        rounding: how the output is stored.
    """
    (top, left), (bottom, right) = layer.padding, _end_padding(layer)
    weight = rounded(layer.weight.to(read.value.dtype))
    bias = None if layer.bias is None else layer.bias.to(weight.dtype)
    sides = (left, right, top, bottom)
    sums = F.conv2d(F.pad(read.value, sides), weight, bias, layer.stride)
    variance = F.conv2d(F.pad(read.value_variance, sides), weight**2, None, layer.stride)
    if added is not None:
        sums, variance = sums + added.value, variance + added.value_variance
    result, spread, winners = sums, variance, None
    if layer.pooled:
        result, winners = F.max_pool2d(sums, 2, return_indices=True)
        spread = F.max_pool2d(variance, 2)
    result = layer.activation.apply(result)
    bits = Bits(layer.activation.passes(result), winners)
    spread = torch.where(bits.passes, spread, spread * layer.activation.slope**2)
    spread = spread + _rounding_variance(result)
    return LayerRun(sums, variance, rounding(result), spread, bits)


def forward_reference(
    layers: tuple[OnChipLayer, ...],
    images: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    rounding: Rounding = rounded,
) -> list[LayerRun]:
    """The forward pass of all layers on chip.

    Args:
        layers: those on chip.
        images: (N, C, H, W), pixel units (0–255).
        scale: (C,) of an affine map before the first layer, or None.
        shift: (C,) of that map, or None.
        rounding: how values are stored.
    """
    x = images.double()
    if scale is not None:
        x = x * scale.to(x.dtype)[:, None, None]
    if shift is not None:
        x = x + shift.to(x.dtype)[:, None, None]
    nothing = Bits(torch.ones_like(x, dtype=torch.bool), None)
    image = LayerRun(x, torch.zeros_like(x), rounding(x), _rounding_variance(x), nothing)
    runs: list[LayerRun] = []
    for layer in layers:
        read = image if layer.reads < 0 else runs[layer.reads]
        added = None if layer.adds is None else runs[layer.adds]
        runs.append(forward_layer(layer, read, added, rounding))
    return runs


def pull_back_activation(layer: OnChipLayer, bits: Bits, cotangent: Tensor) -> Tensor:
    """The cotangent of a layer's sums, before pooling and activation.

    Args:
        layer: any layer.
        bits: what it keeps.
        cotangent: of its output, float64.
    """
    g = cotangent
    if not layer.activation.is_identity:
        g = layer.activation.pull_back(g, bits.passes)
    if bits.winners is not None:
        channels, height, width = layer.conv_shape
        whole = g.new_zeros((len(g), channels, height * width))
        whole.scatter_(2, bits.winners.flatten(2), g.flatten(2))
        g = whole.reshape(len(g), *layer.conv_shape)
    return g


def backward_layer(layer: OnChipLayer, g: Tensor) -> Tensor:
    """The cotangent of a layer's input, not rounded.

    Args:
        layer: any layer.
        g: the cotangent of its sums, float64.
    """
    (top, left), (bottom, right) = layer.padding, _end_padding(layer)
    channels, height, width = layer.in_shape
    size = (len(g), channels, height + top + bottom, width + left + right)
    weight = rounded(layer.weight.to(g.dtype))
    x = conv2d_input(size, weight, g, layer.stride)
    return F.pad(x, (-left, -right, -top, -bottom))


def backward_reference(
    layers: tuple[OnChipLayer, ...],
    kept: Sequence[Bits],
    seed: Tensor,
    scale: Tensor | None = None,
    rounding: Rounding = rounded,
) -> Tensor:
    """δ of a network on chip from what its layers kept: a linear function of the seed.

    Args:
        layers: those on chip.
        kept: the bits of each layer.
        seed: the last value's cotangent, (N, C, H, W).
        scale: (C,) of an affine map before the first layer, or None.
        rounding: how cotangents are stored.

    Returns:
        (N, C, H, W), float64.
    """
    last = len(layers) - 1
    # The cotangent of each value so far, a partial sum until its first reader has been reached.
    # Partial sums are stored, and so rounded, when the next convolution adds to them.
    cotangents: dict[int, Tensor] = {last: seed.double()}
    added: dict[int, Tensor] = {}  # cotangents that a value gets from the layer that adds it
    for i in range(last, -1, -1):
        layer = layers[i]
        if i not in cotangents:  # nothing reads it: it is only added
            cotangents[i] = added.pop(i)
        g = rounding(pull_back_activation(layer, kept[i], cotangents[i]))
        if layer.adds is not None:
            added[layer.adds] = g
        part = backward_layer(layer, g)
        if layer.reads in cotangents:
            part = part + rounding(cotangents[layer.reads])
        if not any(other.reads == layer.reads for other in layers[:i]):
            part = part + added.pop(layer.reads, 0)
        cotangents[layer.reads] = part
    delta = cotangents[-1]
    return delta if scale is None else delta * scale.to(delta.dtype)[:, None, None]


@torch.no_grad()
def delta_reference(
    layers: tuple[OnChipLayer, ...],
    images: Tensor,
    seed: Callable[[Tensor], Tensor],
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    rounding: Rounding = rounded,
) -> Tensor:
    """δ of a network on chip.

    Args:
        layers: those on chip.
        images: (N, C, H, W), pixel units (0–255).
        seed: from the last value to its cotangent, both (N, C, H, W).
        scale: (C,) of an affine map before the first layer, or None.
        shift: (C,) of that map, or None.
        rounding: how values and cotangents are stored.

    Returns:
        (N, C, H, W), float64.
    """
    runs = forward_reference(layers, images, scale, shift, rounding)
    kept = [run.bits for run in runs]
    return backward_reference(layers, kept, seed(runs[-1].value), scale, rounding)
