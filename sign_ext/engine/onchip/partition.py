"""Which first operations of a program can run on chip, and what is left of it behind them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sign_ext.compiler.ir.dense import Convolution, Linear
from sign_ext.compiler.ir.op import Op, Shape
from sign_ext.compiler.ir.pointwise import Pointwise
from sign_ext.compiler.ir.pooling import AveragePool, MaxPool
from sign_ext.compiler.ir.program import Program
from sign_ext.ops.activation import Piecewise
from sign_ext.ops.layout import rounded_up

# What runs on chip: convolutions, each with what follows it, that read and add each other.


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


MOST_READERS = 2  # convolutions of one value
MOST_EXTRA = 2  # times the arithmetic before it is what a layer that is no convolution may have


@dataclass(frozen=True, eq=False)
class Trunk:
    """The layers that begin a program, and why there are no more.

    Attributes:
        layers: in order.
        scale: (C,) of an affine map of the image before them, or None for 1.
        shift: (C,) of it, or None for 0.
        ends: why the operation behind the last layer is none, or "" if there is none.
    """

    layers: tuple[OnChipLayer, ...]
    scale: Tensor | None
    shift: Tensor | None
    ends: str


def _layer_of(op: Op, place: int, like: Tensor) -> OnChipLayer | str:
    """An operation as a layer, or why it is none; `like` tells the weights' type and device."""
    if isinstance(op, Convolution):
        if op.groups != 1 or op.dilation != (1, 1):
            return f"{op} is no plain convolution"
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
            ends=place + 1,
        )
    if isinstance(op, Linear):
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
            ends=place + 1,
        )
    if isinstance(op, MaxPool | AveragePool | Pointwise):
        return _channelwise(op, place, like)
    return f"{op} is no convolution, pooling or sum, and not linear"


def _channelwise(
    op: MaxPool | AveragePool | Pointwise, place: int, like: Tensor
) -> OnChipLayer | str:
    """Pooling, a sum or an activation by itself, as a dense convolution that mixes no channels."""
    shape = op.in_shapes[0]
    if len(shape) != 3:
        return f"{op} is behind a linear layer"
    conv_shape: Shape = shape
    stride, bias = (1, 1), None
    factor = torch.ones(shape[0], dtype=like.dtype, device=like.device)
    kernel = (1, 1)
    if isinstance(op, Pointwise):
        factor, bias = factor if op.scale is None else op.scale, op.shift
    elif isinstance(op, MaxPool):
        if not _is_plain_pool(op):
            return f"{op} is no maximum over 2×2 windows side by side"
    else:
        sizes = zip(shape[1:], op.kernel, op.stride, strict=True)
        whole = op.shape[1:] == tuple((size - k) // s + 1 for size, k, s in sizes)
        if op.padding != (0, 0) or not whole or max(op.kernel) > MOST_TAPS:
            return f"{op} has padding, windows that are cut off or more than {MOST_TAPS} pixels"
        kernel, stride, conv_shape = op.kernel, op.stride, op.shape
        factor = factor / (op.divisor or kernel[0] * kernel[1])
    return OnChipLayer(
        weight=torch.diag(factor)[:, :, None, None].repeat(1, 1, *kernel),
        bias=bias,
        stride=stride,
        padding=(0, 0),
        in_shape=shape,
        conv_shape=conv_shape,
        pooled=isinstance(op, MaxPool),
        activation=op.activation,
        ends=place + 1,
    )


def _is_plain_pool(op: Op) -> bool:
    """Whether it is the maximum over 2×2 windows side by side."""
    if not isinstance(op, MaxPool) or op.kernel != (2, 2) or op.stride != (2, 2):
        return False
    whole = op.shape[1:] == tuple(size // 2 for size in op.in_shapes[0][1:])
    return op.padding == (0, 0) and op.dilation == (1, 1) and whole


@dataclass
class _Builder:
    """Takes operations as layers for as long as it can."""

    program: Program
    layers: list[OnChipLayer] = field(default_factory=list)
    arithmetic: int = 0

    def __post_init__(self) -> None:
        """Begin with the image, or with an affine map of it."""
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
            return f"{op} adds a value that another one adds"
        return None

    def sources(self, op: Op) -> list[int]:
        """The layers that an operation reads, and adds.

        Of a plain sum either may be read; what is only added must have no activation.
        """
        found = [self.layer_of[number] for number in op.inputs]
        if isinstance(op, Pointwise) and op.scale is None and len(found) > 1:
            added = found[1]
            unread = not any(layer.reads == added for layer in self.layers)
            if added >= 0 and unread and self.layers[added].kept:
                found.reverse()
        return found

    def take(self) -> str:
        """Take the next operation, and the pooling behind it; returns why not, or ""."""
        op = self.program.ops[self.place]
        why = self.refusal(op)
        layer = why or _layer_of(op, self.place, self.program.seed)
        if isinstance(layer, str):
            return layer
        sources = self.sources(op)
        layer = replace(layer, reads=sources[0], adds=sources[1] if len(sources) > 1 else None)
        products = sum(layer.products())
        if not isinstance(op, Convolution) and products > MOST_EXTRA * max(self.arithmetic, 1):
            return f"{op} is better done for many images at once"
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
            layer = replace(layer, pooled=True, activation=follows.activation, ends=self.place)
        self.layer_of[self.place] = len(self.layers)
        self.layers.append(layer)
        return ""


def trunk_of(program: Program) -> Trunk:
    """The longest row of layers at the beginning of a program.

    Args:
        program: any program.
    """
    builder = _Builder(program)
    ends = ""
    while builder.place < len(program.ops) and not ends:
        ends = builder.take()
    scale = getattr(builder.affine, "scale", None)
    shift = getattr(builder.affine, "shift", None)
    return Trunk(tuple(builder.layers), scale, shift, ends)


def unusable(layers: tuple[OnChipLayer, ...]) -> str | None:
    """Why layers cannot run on chip by themselves, or None.

    The last one's output leaves the chip or ends the network. Every other output has a reader, and
    one that is only added hands its cotangent on as it is.

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
    """The operations behind the first `place`, as a program whose image is the value before them.

    Args:
        program: a program whose operations from `place` on read no earlier value than that one.
        place: how many operations are left out.
    """
    ops = tuple(
        replace(op, inputs=tuple(n - place for n in op.inputs), output=op.output - place)
        for op in program.ops[place:]
    )
    return replace(program, image_shape=program.shape_of(place), ops=ops)
