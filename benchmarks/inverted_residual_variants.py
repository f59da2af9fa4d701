"""MobileNetV2's blocks in two variants: as one operator, and as three convolutions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sign_ext.compiler.build import compile_phi
from sign_ext.compiler.ir.inverted_residual import InvertedResidual, blocks_of, fuse_blocks
from sign_ext.engine.fused.step import Step, activation_dtype
from sign_ext.engine.fused.tune import isolated_programs
from sign_ext.engine.fused.tuning_plan import StepChoices
from sign_ext.eval_state import computing
from sign_ext.models import build_model
from sign_ext.source_layer import Phi, find_source_layer

NAMES = ("convolutions", "block")


def blocks(size: int, device: torch.device) -> list[InvertedResidual]:
    """All blocks of MobileNetV2 for an image size, in order, with random weights."""
    torch.manual_seed(0)
    model: nn.Module = build_model("mobilenet_v2", num_classes=10, image_shape=(3, size, size))
    model = model.to(device).eval().requires_grad_(False)
    images = torch.rand(1, 3, size, size, device=device)
    with computing(model):
        program = compile_phi(Phi(model, find_source_layer(model, images)), images)
    found = []
    for place in blocks_of(program):
        fused, origin = fuse_blocks(program, (place,))
        op = fused.ops[origin.index(place)]
        assert isinstance(op, InvertedResidual)
        found.append(op)
    return found


def input_of(op: InvertedResidual, images: int) -> Tensor:
    """Normally distributed input of a block, float32, channels_last."""
    x = torch.randn((images, *op.in_shapes[0]), device=op.expand.weight.device)
    return x.to(memory_format=torch.channels_last)


def steps(op: InvertedResidual, x: Tensor, precision: str) -> dict[str, Callable[[], Tensor]]:
    """Forward and backward by variant; call them in `computing(..., precision)`, no_grad."""
    device, dtype = x.device, activation_dtype(torch.float32, precision)
    programs = isolated_programs(op, torch.randn(op.shape, device=device))

    def step(program: object) -> Callable[[], Tensor]:
        built = Step(program, dtype, device, len(x), StepChoices(len(x)), tf32=precision == "tf32")  # type: ignore[arg-type]
        return lambda: built.delta(x)

    return {name: step(program) for name, program in zip(NAMES, programs, strict=True)}


def bytes_moved(op: InvertedResidual, images: int, precision: str) -> int:
    """The block's floor: its input, output and residue bits, each once per direction."""
    dtype = activation_dtype(torch.float32, precision)
    values = torch.Size(op.expand.in_shapes[0]).numel() + torch.Size(op.shape).numel()
    bits = sum(residue.bytes for residue in op.residues())
    return 2 * images * (values * torch.empty((), dtype=dtype).element_size() + bits)
