"""What the tests of inverted_residual share, on the emulated device and on a real one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from tensors import channels_last, poisoned
from torch import Tensor
from torch.nn import functional as F

from sign_ext.ops.activation import IDENTITY, RELU, RELU6, Piecewise, mask_shape, unpack_bits
from sign_ext.ops.inverted_residual import (
    Block,
    PackedBlock,
    inverted_residual,
    inverted_residual_backward,
    pack_block,
)

# What the roundings of a product's elements, sums and stored values do.
UNIT = {"float32": 2.0**-20, "tf32": 2.0**-10, "bfloat16": 2.0**-8}
HARDTANH = Piecewise(-1.0, 1.5)


@dataclass(frozen=True)
class Case:
    """A block's sizes; `shape` is the input's, `padding_end` the padding after each axis."""

    shape: tuple[int, int, int, int]
    expanded: int
    channels: int
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    padding_end: tuple[int, int] = (1, 1)
    activations: tuple[Piecewise, Piecewise, Piecewise] = (RELU6, RELU6, IDENTITY)
    residual: bool = False
    bias: bool = True

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        """The output's shape."""
        n, _, *sizes = self.shape
        axes = zip(sizes, self.padding, self.padding_end, self.kernel, self.stride, strict=True)
        height, width = ((size + a + b - k) // s + 1 for size, a, b, k, s in axes)
        return (n, self.channels, height, width)


CASES = {
    "mobilenet, stride 2": Case((3, 16, 16, 16), 96, 24, stride=(2, 2)),
    "mobilenet, skip": Case((5, 24, 8, 8), 144, 24, residual=True),
    "mobilenet, 1x1": Case((70, 160, 1, 1), 320, 320),
    "odd": Case(
        (2, 8, 7, 5), 40, 48, kernel=(5, 3), stride=(1, 2), padding=(2, 0), padding_end=(2, 1),
        activations=(HARDTANH, RELU, RELU), residual=True, bias=False,
    ),
    "linear": Case((1, 16, 3, 3), 24, 8, activations=(IDENTITY, IDENTITY, HARDTANH)),
    "padded as TensorFlow pads": Case((9, 32, 4, 4), 72, 64, stride=(2, 2), padding=(0, 0)),
}  # fmt: skip


@dataclass
class Run:
    """What one run of both operators took and wrote."""

    block: Block
    x: Tensor
    residual: Tensor | None
    g: Tensor
    other: Tensor | None
    out: Tensor
    cotangent: Tensor
    masks: list[Tensor | None] = field(default_factory=list)


def random_block(case: Case, generator: torch.Generator) -> Block:
    """Weights of He's variance, so that values keep their size."""

    def normal(*shape: int, inputs: int) -> Tensor:
        return torch.randn(shape, generator=generator) * math.sqrt(2 / inputs)

    e, c_in, c_out, taps = case.expanded, case.shape[1], case.channels, math.prod(case.kernel)
    biases: dict[str, Any] = {}
    if case.bias:
        biases = {
            "expand_bias": torch.randn(e, generator=generator),
            "depthwise_bias": torch.randn(e, generator=generator),
            "project_bias": torch.randn(c_out, generator=generator),
        }
    return Block(
        normal(e, c_in, inputs=c_in),
        normal(*case.kernel, e, inputs=taps),
        normal(c_out, e, inputs=e),
        **biases,
        expand_activation=case.activations[0],
        depthwise_activation=case.activations[1],
        activation=case.activations[2],
        stride=case.stride,
        padding=case.padding,
    )


def to_device(block: Block, device: str) -> Block:
    """The block with its tensors elsewhere."""
    return Block(*(v.to(device) if isinstance(v, Tensor) else v for v in block))


def run_both(
    case: Case, precision: str, generator: torch.Generator, device: str = "cpu"
) -> tuple[Run, PackedBlock]:
    """Both operators on random tensors, everything that they write poisoned before."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    packed = pack_block(
        to_device(random_block(case, generator), device), dtype, tf32=precision == "tf32"
    )

    def normal(shape: tuple[int, ...]) -> Tensor:
        return channels_last(torch.randn(shape, generator=generator).to(device, dtype))

    n, _, height, width = case.shape
    out_shape = case.out_shape
    shapes = [(n, case.expanded, height, width), (n, case.expanded, *out_shape[2:]), out_shape]
    masks = [
        None if a.is_identity else poisoned(mask_shape(shape), torch.uint8, device)
        for a, shape in zip(case.activations, shapes, strict=True)
    ]
    run = Run(
        packed.block,
        normal(case.shape),
        normal(out_shape) if case.residual else None,
        normal(out_shape),
        normal(case.shape) if case.residual else None,
        poisoned(out_shape, dtype, device),
        poisoned(case.shape, dtype, device),
        masks,
    )
    bits = {"expand_mask": masks[0], "depthwise_mask": masks[1]}
    inverted_residual(run.x, packed, run.out, **bits, residual=run.residual, mask=masks[2])
    inverted_residual_backward(run.g, packed, run.cotangent, **bits, other=run.other)
    return run, packed


def _pointwise(x: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("nchw,oc->nohw", x, weight)


@dataclass(frozen=True)
class Errors:
    """How far a run is from its definition in float64.

    Attributes:
        out: relative L2 distance of the value.
        cotangent: the same of the cotangent, from the one that the written bits give.
        wrong_bits: of each activation: how many bits say what their value does not, though it is
            further than rounding from a bound.
    """

    out: float
    cotangent: float
    wrong_bits: tuple[int, ...]

    def within(self, precision: str) -> bool:
        """Whether rounding at the precision explains them."""
        return max(self.out, self.cotangent) < 2 * UNIT[precision] and not any(self.wrong_bits)


def check_both(case: Case, run: Run, precision: str) -> None:
    """Compare with torch's convolutions in float64, and the bits with what they say."""
    errors = errors_of(case, run, precision)
    assert errors.within(precision), errors


def errors_of(case: Case, run: Run, precision: str) -> Errors:
    """How far a run of both operators is from torch's convolutions in float64.

    Where a value lies within rounding of a bound, its bit is taken as it was written: the
    cotangent is compared with the one that those bits give.
    """
    dtype, block = run.x.dtype, run.block
    x, g = run.x.double(), run.g.double()
    weights = [w.to(dtype).double() for w in (block.expand, block.project)]
    filters = block.depthwise.double().permute(2, 0, 1)[:, None]
    zeros = torch.zeros((), dtype=torch.float64, device=x.device)
    biases = [
        zeros if b is None else b.double()[:, None, None]
        for b in (block.expand_bias, block.depthwise_bias, block.project_bias)
    ]
    top, left = case.padding
    below, right = case.padding_end
    e = case.activations[0].apply(_pointwise(x, weights[0]) + biases[0])
    windows = F.conv2d(
        F.pad(e, (left, right, top, below)), filters, None, case.stride, groups=case.expanded
    )[..., : case.out_shape[2], : case.out_shape[3]]
    d = case.activations[1].apply(windows + biases[1])
    y = _pointwise(d, weights[1]) + biases[2]
    if run.residual is not None:
        y = y + run.residual.double()
    y = case.activations[2].apply(y)
    unit = UNIT[precision]
    wrong = []
    for value, activation, mask in zip((e, d, y), case.activations, run.masks, strict=True):
        if mask is None:
            continue
        bits = unpack_bits(mask, tuple(value.shape))
        near = (value - activation.low).abs() < 16 * unit * (1 + value.abs())
        near |= (value - activation.high).abs() < 16 * unit * (1 + value.abs())
        wrong.append(((bits != activation.passes(value)) & ~near).sum().item())

    back = _pointwise(g, weights[1].t())
    back = _pulled(back, case.activations[1], run.masks[1])
    padded = torch.zeros(
        (*e.shape[:2], e.shape[2] + top + below, e.shape[3] + left + right),
        dtype=torch.float64, device=x.device,
    )  # fmt: skip
    grown = torch.nn.grad.conv2d_input(
        padded.shape, filters, _grown(back, padded.shape, case), case.stride, groups=case.expanded
    )
    back = grown[..., top : top + e.shape[2], left : left + e.shape[3]]
    back = _pulled(back, case.activations[0], run.masks[0])
    back = _pointwise(back, weights[0].t())
    if run.other is not None:
        back = back + run.other.double()
    return Errors(_distance(run.out, y), _distance(run.cotangent, back), tuple(wrong))


def _grown(g: Tensor, padded: torch.Size, case: Case) -> Tensor:
    """Zeros for windows that a padded image has and the output has not."""
    rows, columns = (
        (size - k) // s + 1 for size, k, s in zip(padded[2:], case.kernel, case.stride, strict=True)
    )
    return F.pad(g, (0, columns - g.shape[3], 0, rows - g.shape[2]))


def _pulled(g: Tensor, activation: Piecewise, mask: Tensor | None) -> Tensor:
    return g if mask is None else activation.pull_back(g, unpack_bits(mask, tuple(g.shape)))


def _distance(got: Tensor, expected: Tensor) -> float:
    """Relative L2 distance."""
    assert torch.isfinite(got).all()
    return float((got.double() - expected).norm() / expected.norm())
