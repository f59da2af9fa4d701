"""Small programs around one inverted residual, written operation by operation, in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from sign_ext.compiler.build import compile_phi
from sign_ext.compiler.ir.dense import Convolution
from sign_ext.compiler.ir.op import Op
from sign_ext.compiler.ir.pointwise import Pointwise
from sign_ext.compiler.ir.program import Program
from sign_ext.eval_state import computing
from sign_ext.models import build_model
from sign_ext.ops.activation import IDENTITY, RELU, RELU6, Piecewise
from sign_ext.source_layer import Phi, find_source_layer

HARDTANH = Piecewise(-2.0, 3.0)


@dataclass(frozen=True)
class Case:
    """A block of 8 → 24 → 8 channels between a stem and a 3×3 convolution.

    residual: "none", "own" (the block's input) or "elsewhere" (another convolution of it).
    read_again: whether a separate operation also adds its input to its value.
    """

    kernel: int = 3
    stride: int = 1
    residual: str = "none"
    activations: tuple[Piecewise, Piecewise, Piecewise] = (RELU6, RELU6, IDENTITY)
    read_again: bool = False
    size: tuple[int, int] = (5, 7)


CASES = {
    "MobileNetV2": Case(residual="own"),
    "stride 2": Case(stride=2),
    "5×5": Case(kernel=5, residual="own", activations=(RELU, RELU6, IDENTITY)),
    "5×5, stride 2": Case(kernel=5, stride=2, activations=(HARDTANH, RELU, IDENTITY), size=(6, 9)),
    "residual from elsewhere": Case(residual="elsewhere"),
    "elsewhere, stride 2": Case(
        stride=2, residual="elsewhere", activations=(RELU, HARDTANH, RELU6), size=(9, 4)
    ),
    "activation after the sum": Case(residual="own", activations=(RELU6, RELU, RELU)),
    "hardtanh after the sum": Case(residual="own", activations=(HARDTANH, HARDTANH, HARDTANH)),
    "one activation": Case(activations=(IDENTITY, RELU6, IDENTITY)),
    "the other one": Case(activations=(RELU, IDENTITY, RELU)),
    "linear": Case(residual="own", activations=(IDENTITY, IDENTITY, IDENTITY)),
    "input read again": Case(residual="own", read_again=True),
    "input read again, no residual": Case(read_again=True, activations=(RELU, RELU, RELU)),
    "one pixel": Case(residual="own", size=(1, 1)),
}


class Builder:
    """Builds a program; `convolution` and `add` return their value's number."""

    def __init__(self, image_shape: tuple[int, int, int], seed: int = 0) -> None:
        self.shapes = [image_shape]
        self.ops: list[Op] = []
        self.generator = torch.Generator().manual_seed(seed)

    def random(self, *shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def _append(self, op: Op) -> int:
        self.ops.append(op)
        self.shapes.append(op.shape)
        return op.output

    def convolution(
        self,
        inputs: tuple[int, ...],
        channels: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        activation: Piecewise = IDENTITY,
    ) -> int:
        before, *size = self.shapes[inputs[0]]
        padding = dilation * (kernel // 2)
        sides = [(n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for n in size]
        per_group = before // groups
        return self._append(
            Convolution(
                inputs=inputs,
                output=len(self.shapes),
                in_shapes=tuple(self.shapes[n] for n in inputs),
                shape=(channels, *sides),
                activation=activation,
                weight=self.random(
                    channels, per_group, kernel, kernel, scale=(per_group * kernel**2) ** -0.5
                ),
                bias=self.random(channels, scale=0.3),
                stride=(stride, stride),
                padding=(padding, padding),
                padding_end=(padding, padding),
                dilation=(dilation, dilation),
                groups=groups,
            )
        )

    def add(self, first: int, second: int) -> int:
        return self._append(
            Pointwise(
                inputs=(first, second),
                output=len(self.shapes),
                in_shapes=(self.shapes[first], self.shapes[second]),
                shape=self.shapes[first],
            )
        )

    def program(self) -> Program:
        return Program(
            image_shape=self.shapes[0],  # type: ignore[arg-type]
            ops=tuple(self.ops),
            seed=self.random(*self.shapes[-1]),
        )


def block_program(case: Case) -> tuple[Program, int]:
    """The program, and the place of the block's last convolution."""
    builder = Builder((3, *case.size))
    first, second, last = case.activations
    x = builder.convolution((0,), 8, 3, activation=RELU)
    e = builder.convolution((x,), 24, activation=first)
    # Between the block's operations, so that these are not adjacent.
    elsewhere = ()
    if case.residual == "elsewhere":
        elsewhere = (builder.convolution((x,), 8, 3, stride=case.stride),)
    d = builder.convolution((e,), 24, case.kernel, stride=case.stride, groups=24, activation=second)
    residual = (x,) if case.residual == "own" else elsewhere
    value = builder.convolution((d, *residual), 8, activation=last)
    place = value - 1
    if case.read_again:
        value = builder.add(value, x)
    builder.convolution((value,), 5, 3, activation=RELU)
    return builder.program(), place


def program_of(model: nn.Module, images: Tensor) -> Program:
    """A network's program."""
    with computing(model):
        return compile_phi(Phi(model, find_source_layer(model, images[:1])), images[:1])


def mobilenet(generator: torch.Generator, count: int = 2) -> tuple[nn.Module, Tensor]:
    """MobileNetV2 for 32×32 with weights like trained ones, and images of 0 to 255.

    Skips the test where torchvision is missing.
    """
    pytest.importorskip("torchvision")
    from networks import lively

    model = build_model("mobilenet_v2", num_classes=10, image_shape=(3, 32, 32))
    model = lively(model, generator).eval().requires_grad_(False)
    return model, 255 * torch.rand(count, 3, 32, 32, generator=generator)


def with_changes(program: Program, place: int, **changes: object) -> Program:
    """The program with one operation changed."""
    ops = list(program.ops)
    ops[place] = replace(ops[place], **changes)  # type: ignore[arg-type]
    return replace(program, ops=tuple(ops))
