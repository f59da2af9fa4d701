"""Which first operations of a program can run on chip, as a chain of convolutions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from sign_ext.compiler.dense import Convolution, Linear
from sign_ext.compiler.op import Op, Shape
from sign_ext.compiler.pooling import MaxPool
from sign_ext.compiler.program import Program
from sign_ext.compiler.traits import is_affine
from sign_ext.ops.activation import Piecewise

CHUNK = 8  # channels that the matrix unit loads at once …
STEP = 16  # … and multiplies at once
MOST_TAPS = 16  # of a kernel, along one axis
MOST_LAYERS = 12  # csrc/onchip/onchip.h: kMostLayers
MOST_EXTRA = 2  # a linear layer may at most double the arithmetic of what comes before it


def padded(channels: int) -> int:
    """Channels of a value in shared memory: whole steps of the matrix unit.

    Args:
        channels: real ones.
    """
    return -(-channels // STEP) * STEP


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
        is_first: whether its input is the image.
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
    is_first: bool = False

    @property
    def in_channels(self) -> int:
        """Channels of the input in shared memory."""
        channels = self.weight.shape[1]
        return padded_image(channels) if self.is_first else padded(channels)

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
        rows = -(-height * width * self.in_channels // STEP) * STEP
        return rows * padded(out_c) * 2

    def products(self) -> tuple[int, int]:
        """Multiply-adds of an image, forward and to the input, as the matrix unit does them."""
        out_c, _, height, width = self.weight.shape
        taps = height * width * self.in_channels * padded(out_c)
        _, conv_h, conv_w = self.conv_shape
        _, in_h, in_w = self.in_shape
        return conv_h * conv_w * taps, in_h * in_w * taps


@dataclass(frozen=True, eq=False)
class Chain:
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


def _layer_of(op: Op, place: int) -> OnChipLayer | str:
    """An operation as a layer, or why it is none."""
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
    return f"{op} is neither a convolution nor linear"


def _is_plain_pool(op: Op) -> bool:
    """Whether it is the maximum over 2×2 windows side by side."""
    if not isinstance(op, MaxPool) or op.kernel != (2, 2) or op.stride != (2, 2):
        return False
    whole = op.shape[1:] == tuple(size // 2 for size in op.in_shapes[0][1:])
    return op.padding == (0, 0) and op.dilation == (1, 1) and whole


def chain_of(program: Program) -> Chain:
    """The longest chain of layers at the beginning of a program.

    Args:
        program: any program.
    """
    ops, readers = program.ops, program.readers()
    layers: list[OnChipLayer] = []
    scale = shift = None
    place = 0

    def alone(number: int) -> bool:
        return readers[number] == (number,)

    if len(ops) > 1 and is_affine(ops[0]) and alone(0) and alone(1):
        scale, shift = ops[0].scale, ops[0].shift  # type: ignore[attr-defined]  # it is Pointwise
        place = 1
    arithmetic = 0
    ends = ""
    while place < len(ops):
        op = ops[place]
        if len(op.inputs) != 1 or op.inputs != (place,):
            ends = f"{op} reads several values"
        elif not alone(place):
            ends = f"the value before {op} is read by several operations"
        elif len(layers) == MOST_LAYERS:
            ends = f"more than {MOST_LAYERS} layers"
        layer = ends or _layer_of(op, place)
        if isinstance(layer, str):
            ends = layer
            break
        layer = replace(layer, is_first=not layers)
        forward, backward = layer.products()
        if isinstance(op, Linear) and forward + backward > MOST_EXTRA * max(arithmetic, 1):
            ends = f"{op} is better done for many images at once"
            break
        arithmetic += forward + backward
        place += 1
        follows = ops[place] if place < len(ops) else None
        pools = follows is not None and _is_plain_pool(follows) and layer.activation.is_identity
        if follows is not None and pools and alone(place):
            layer = replace(layer, pooled=True, activation=follows.activation, ends=place + 1)
            place += 1
        layers.append(layer)
    return Chain(tuple(layers), scale, shift, ends)


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
