"""Which operations at the start of a program run on chip, and the program of those after them.

What runs on chip is a list of layers: convolutions, each with the pooling and the activation that
follow it, which may read the output of any earlier layer and add that of another.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import singledispatch

import torch
from torch import Tensor

from sign_ext.compiler.ir.dense import Convolution, Linear
from sign_ext.compiler.ir.op import Op, Shape
from sign_ext.compiler.ir.pointwise import Pointwise
from sign_ext.compiler.ir.pooling import AveragePool, MaxPool
from sign_ext.compiler.ir.program import Program
from sign_ext.ops.activation import Piecewise
from sign_ext.ops.layout import Pair, rounded_up

CHUNK = 8  # channels that the matrix unit loads at once: kChunk of csrc/onchip/onchip_layout.h
STEP = 16  # channels that it multiplies at once
MOST_TAPS = 16  # of a kernel, along one axis: kMostTaps of csrc/onchip/onchip_layout.h
MOST_LAYERS = 24  # kMostLayers of csrc/onchip/onchip.h
MOST_READERS = 2  # convolutions that read one value
MOST_EXTRA = 2  # a layer that is no convolution may take so many times the arithmetic before it


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
    """A convolution, optionally the maximum over 2×2 windows, and an activation.

    Attributes:
        weight: (C_out, C_in, KH, KW).
        bias: (C_out,) or None.
        stride: (vertical, horizontal).
        padding: zeros before the image (top, left).
        in_shape: (C, H, W) of the input.
        conv_shape: (C, H, W) of the convolution's result.
        pooled: whether the maximum is taken.
        activation: applied last.
        end: how many operations of the program there are up to and with this layer.
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
    end: int
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
        """Bits that are kept of an element of the output: 1, and 2 more with pooling."""
        if self.pooled:
            return 3
        return 0 if self.activation.is_identity else 1

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in shared memory."""
        out_c, _, height, width = self.weight.shape
        rows = rounded_up(height * width * self.in_channels, STEP)
        return rows * padded(out_c) * 2

    def products(self) -> tuple[int, int]:
        """Multiply-adds of one image forward and backward, as the matrix unit does them, padded."""
        out_c, _, height, width = self.weight.shape
        taps = height * width * self.in_channels * padded(out_c)
        _, conv_h, conv_w = self.conv_shape
        _, in_h, in_w = self.in_shape
        return conv_h * conv_w * taps, in_h * in_w * taps


def cotangent_of(layers: tuple[OnChipLayer, ...], i: int) -> int:
    """The layer whose cotangent array layer i uses: itself, or the layer that adds its output.

    An output that is only added has the cotangent of the sum.

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


@dataclass(frozen=True, eq=False)
class Trunk:
    """The layers at the start of a program, and why there are no more.

    Attributes:
        layers: in order.
        scale: (C,) of an affine map of the image before them, or None for 1.
        shift: (C,) of that map, or None for 0.
        stop_reason: why the operation after the last layer cannot run on chip, or "" if there is
            no such operation.
    """

    layers: tuple[OnChipLayer, ...]
    scale: Tensor | None
    shift: Tensor | None
    stop_reason: str


def trunk_of(program: Program) -> Trunk:
    """As many layers as the start of a program has.

    Args:
        program: any program.
    """
    builder = _TrunkBuilder(program)
    stop_reason = ""
    while builder.place < len(program.ops) and not stop_reason:
        stop_reason = builder.take()
    scale = getattr(builder.affine, "scale", None)
    shift = getattr(builder.affine, "shift", None)
    return Trunk(tuple(builder.layers), scale, shift, stop_reason)


def why_not_cut_after(layers: tuple[OnChipLayer, ...]) -> str | None:
    """Why the trunk cannot be cut after these layers, or None.

    The output of the last layer leaves the chip or ends the network. Every other output must be
    read or added on chip. One that is only added has no cotangent array of its own, so it must have
    no activation, through which the sum's cotangent would have to be masked.

    Args:
        layers: the first of a trunk.
    """
    for i, layer in enumerate(layers[:-1]):
        readers = [n for n, other in enumerate(layers) if other.reads == i]
        adders = [n for n, other in enumerate(layers) if other.adds == i]
        if not readers and not adders:
            return "a value is read only by what follows the layers on chip"
        if not readers and layer.kept:
            return "a value with an activation is only added to another"
        if readers and adders and adders[0] < readers[0]:
            return "a value is added before a convolution reads it"
    return None


def rest_of(program: Program, place: int) -> Program:
    """The operations from `place` on, as a program whose image is the value before them.

    Args:
        program: its operations from `place` on must read no value before that one.
        place: how many operations are left out.
    """
    ops = tuple(
        replace(op, inputs=tuple(n - place for n in op.inputs), output=op.output - place)
        for op in program.ops[place:]
    )
    return replace(program, image_shape=program.shape_of(place), ops=ops)


@dataclass
class _TrunkBuilder:
    """Takes one operation after the other as a layer, for as long as that is possible."""

    program: Program
    layers: list[OnChipLayer] = field(default_factory=list)
    arithmetic: int = 0

    def __post_init__(self) -> None:
        """Start from the image, or from an affine map of it."""
        ops, readers = self.program.ops, self.program.readers()
        self.readers = readers
        self.affine = ops[0] if len(ops) > 1 and ops[0].is_affine and readers[0] == (0,) else None
        self.place = 0 if self.affine is None else 1
        self.layer_of = {self.place: -1}  # value of the program → layer

    def refusal(self, op: Op) -> str | None:
        """Why an operation cannot be the next layer, whatever it is."""
        if any(number not in self.layer_of for number in op.inputs):
            return f"{op} reads a value between a convolution and its pooling"
        sources = self.sources(op)
        if not self.layers and len(sources) > 1:
            return f"{op} adds the image"
        if self.layers and -1 in sources:
            return f"{op} reads the image again"
        if len(self.layers) == MOST_LAYERS:
            return f"more than {MOST_LAYERS} layers"
        if sum(layer.reads == sources[0] for layer in self.layers) == MOST_READERS:
            return f"{op} is the third convolution that reads one value"
        if len(sources) > 1 and any(layer.adds == sources[1] for layer in self.layers):
            return f"{op} adds a value that another layer adds"
        return None

    def sources(self, op: Op) -> list[int]:
        """The layer that an operation reads and, if any, the one that it adds.

        A plain sum may read either of its inputs. A value that is only added must have no
        activation, so where one has, that is the one to read.
        """
        found = [self.layer_of[number] for number in op.inputs]
        if op.is_identity_vjp and len(found) > 1:
            added = found[1]
            unread = not any(layer.reads == added for layer in self.layers)
            if added >= 0 and unread and self.layers[added].kept:
                found.reverse()
        return found

    def take(self) -> str:
        """Take the next operation, and pooling that follows it; returns why not, or ""."""
        op = self.program.ops[self.place]
        why = self.refusal(op)
        layer = why or _layer_of(op, self.place, self.program.seed)
        if isinstance(layer, str):
            return layer
        sources = self.sources(op)
        layer = replace(layer, reads=sources[0], adds=sources[1] if len(sources) > 1 else None)
        products = sum(layer.products())
        if not isinstance(op, Convolution) and products > MOST_EXTRA * max(self.arithmetic, 1):
            return f"{op} is faster for many images at once"
        self.arithmetic += products
        self.place += 1
        follows = self.program.ops[self.place] if self.place < len(self.program.ops) else None
        if (
            follows is not None
            and _is_plain_pool(follows)
            and not layer.pooled
            and layer.activation.is_identity
            and layer.adds is None
            and self.readers[self.place] == (self.place,)
        ):
            self.place += 1
            layer = replace(layer, pooled=True, activation=follows.activation, end=self.place)
        self.layer_of[self.place] = len(self.layers)
        self.layers.append(layer)
        return ""


@singledispatch
def _layer_of(op: Op, place: int, like: Tensor) -> OnChipLayer | str:
    """An operation as a layer, or why it cannot be one; the kinds that can be are registered.

    Args:
        op: the operation.
        place: in the program.
        like: has the dtype and the device of weights.
    """
    return f"{op} is not a convolution, pooling, sum or linear layer"


@_layer_of.register
def _(op: Convolution, place: int, like: Tensor) -> OnChipLayer | str:
    if op.groups != 1 or op.dilation != (1, 1):
        return f"{op} has groups or dilation"
    if max(op.kernel) > MOST_TAPS:
        return f"{op} has a kernel of more than {MOST_TAPS} pixels"
    return OnChipLayer(
        weight=op.weight,
        bias=op.bias,
        stride=op.stride,
        padding=op.padding,
        in_shape=op.in_shapes[0],
        conv_shape=op.shape,
        pooled=False,
        activation=op.activation,
        end=place + 1,
    )


@_layer_of.register
def _(op: Linear, place: int, like: Tensor) -> OnChipLayer | str:
    shape = op.in_shapes[0]
    shape = shape if len(shape) == 3 else (shape[0], 1, 1)
    if max(shape[1:]) > MOST_TAPS:
        return f"{op} reads more than {MOST_TAPS} pixels"
    return OnChipLayer(
        weight=op.weight.reshape(-1, *shape),
        bias=op.bias,
        stride=(1, 1),
        padding=(0, 0),
        in_shape=shape,
        conv_shape=(op.shape[0], 1, 1),
        pooled=False,
        activation=op.activation,
        end=place + 1,
    )


@_layer_of.register
def _(op: Pointwise, place: int, like: Tensor) -> OnChipLayer | str:
    if len(op.in_shapes[0]) != 3:
        return f"{op} follows a linear layer"
    factor = _ones(op, like) if op.scale is None else op.scale
    return replace(_channelwise(op, place, factor), bias=op.shift)


@_layer_of.register
def _(op: MaxPool, place: int, like: Tensor) -> OnChipLayer | str:
    if not _is_plain_pool(op):
        return f"{op} is not the maximum over adjacent 2×2 windows"
    return replace(_channelwise(op, place, _ones(op, like)), pooled=True)


@_layer_of.register
def _(op: AveragePool, place: int, like: Tensor) -> OnChipLayer | str:
    sizes = zip(op.in_shapes[0][1:], op.kernel, op.stride, strict=True)
    whole = op.shape[1:] == tuple((size - k) // s + 1 for size, k, s in sizes)
    if op.padding != (0, 0) or not whole or max(op.kernel) > MOST_TAPS:
        return f"{op} has padding, windows that are cut off or more than {MOST_TAPS} pixels"
    factor = _ones(op, like) / (op.divisor or op.kernel[0] * op.kernel[1])
    layer = _channelwise(op, place, factor, op.kernel)
    return replace(layer, stride=op.stride, conv_shape=op.shape)


def _ones(op: Op, like: Tensor) -> Tensor:
    """A factor of 1 for each channel of an operation's input."""
    return torch.ones(op.in_shapes[0][0], dtype=like.dtype, device=like.device)


def _channelwise(op: Op, place: int, factor: Tensor, kernel: Pair = (1, 1)) -> OnChipLayer:
    """A dense convolution that mixes no channels: the sum over a window, times a factor."""
    return OnChipLayer(
        weight=torch.diag(factor)[:, :, None, None].repeat(1, 1, *kernel),
        bias=None,
        stride=(1, 1),
        padding=(0, 0),
        in_shape=op.in_shapes[0],
        conv_shape=op.in_shapes[0],
        pooled=False,
        activation=op.activation,
        end=place + 1,
    )


def _is_plain_pool(op: Op) -> bool:
    """Whether it is the maximum over adjacent 2×2 windows that cover the image."""
    if not isinstance(op, MaxPool) or op.kernel != (2, 2) or op.stride != (2, 2):
        return False
    whole = op.shape[1:] == tuple(size // 2 for size in op.in_shapes[0][1:])
    return op.padding == (0, 0) and op.dilation == (1, 1) and whole
