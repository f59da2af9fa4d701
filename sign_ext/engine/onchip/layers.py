"""What runs on chip: convolutions, each with what follows it, that read and add each other."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sign_ext.compiler.ir.op import Shape
from sign_ext.ops.activation import Piecewise
from sign_ext.ops.rounding import rounded_up

CHUNK = 8  # channels that the matrix unit loads at once …
STEP = 16  # … and multiplies at once
MOST_TAPS = 16  # of a kernel, along one axis
MOST_LAYERS = 24  # csrc/onchip/onchip.h: kMostLayers


def padded(channels: int) -> int:
    """Channels of a value in shared memory: whole steps of the matrix unit.

    Args:
        channels: real ones.
    """
    return rounded_up(channels, STEP)


def padded_image(channels: int) -> int:
    """Channels of the image in shared memory: half a step is enough for up to 8.

    Args:
        channels: real ones.
    """
    return CHUNK if channels <= CHUNK else padded(channels)


@dataclass(frozen=True, eq=False)
class OnChipLayer:
    """A convolution, perhaps the maximum over 2×2 windows, and an activation.

    Attributes:
        weight: (C_out, C_in, KH, KW).
        bias: (C_out,) or None.
        stride: (vertical, horizontal).
        padding: zeros in front (top, left).
        in_shape: (C, H, W).
        conv_shape: (C, H, W) of what the convolution gives.
        pooled: whether the maximum follows.
        activation: what is applied last.
        ends: the number of operations of the program up to here.
        reads: the layer whose output is the input, or -1 for the image.
        adds: the layer whose output is added before the activation, or None.
    """

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int]
    in_shape: Shape
    conv_shape: Shape
    pooled: bool
    activation: Piecewise
    ends: int
    reads: int = -1
    adds: int | None = None

    @property
    def in_channels(self) -> int:
        """Channels of the input in shared memory."""
        channels = self.weight.shape[1]
        return padded_image(channels) if self.reads < 0 else padded(channels)

    @property
    def shape(self) -> Shape:
        """(C, H, W) of the output."""
        channels, height, width = self.conv_shape
        return (channels, height // 2, width // 2) if self.pooled else self.conv_shape

    @property
    def kept(self) -> int:
        """Bits that an element of the output keeps."""
        if self.pooled:
            return 3
        return 0 if self.activation.is_identity else 1

    @property
    def weight_bytes(self) -> int:
        """In shared memory."""
        out_c, _, height, width = self.weight.shape
        rows = rounded_up(height * width * self.in_channels, STEP)
        return rows * padded(out_c) * 2

    def products(self) -> tuple[int, int]:
        """Multiply-adds of an image, forward and to the input, as the matrix unit does them."""
        out_c, _, height, width = self.weight.shape
        taps = height * width * self.in_channels * padded(out_c)
        _, conv_h, conv_w = self.conv_shape
        _, in_h, in_w = self.in_shape
        return conv_h * conv_w * taps, in_h * in_w * taps


def cotangent_of(layers: tuple[OnChipLayer, ...], i: int) -> int:
    """The layer whose cotangent array is also layer i's: its own, or that of what adds its output.

    An output that is only added has the sum's cotangent.

    Args:
        layers: the network.
        i: a layer.
    """
    adder = adder_of(layers, i)
    if adder is None or any(other.reads == i for other in layers):
        return i
    return cotangent_of(layers, adder)


def adder_of(layers: tuple[OnChipLayer, ...], i: int) -> int | None:
    """The layer that adds layer i's output, or None.

    Args:
        layers: the network.
        i: a layer.
    """
    return next((n for n, other in enumerate(layers) if other.adds == i), None)


def readers_of(layers: tuple[OnChipLayer, ...], i: int) -> list[int]:
    """The layers whose convolution reads layer i's output, in order.

    Args:
        layers: the network.
        i: a layer.
    """
    return [n for n, other in enumerate(layers) if other.reads == i]
