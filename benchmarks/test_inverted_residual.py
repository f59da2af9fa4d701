"""A block of MobileNetV2 as one operator against its convolutions one by one, forward and back.

Both are the fused backend's own steps, replayed as graphs: cuDNN's 1×1 convolutions, `activate` and
`depthwise`, or `inverted_residual`. `bytes_moved` is the block's floor: what goes in and comes out,
and the bits, each once in each direction. There is no kernel for CPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from sign_ext.compiler.build import compile_phi
from sign_ext.compiler.inverted_residual import InvertedResidual, blocks_of, fuse_blocks
from sign_ext.computing import computing
from sign_ext.engine.fused.choices import Choices
from sign_ext.engine.fused.step import Step, activation_dtype
from sign_ext.engine.fused.tune_blocks import alone
from sign_ext.engine.graphed import record_cuda_graph
from sign_ext.models import build_model
from sign_ext.phi import Phi
from sign_ext.source_layer import find_source_layer

# name -> which of the network's blocks, at which size of image.
BLOCKS = {
    "16x16, 16-96-24, stride 2": (0, 32),
    "8x8, 24-144-24": (1, 32),
    "4x4, 32-192-32": (3, 32),
    "2x2, 64-384-64": (6, 32),
    "1x1, 160-960-160": (13, 32),
    "1x1, 160-960-320": (15, 32),
    "14x14, 64-384-64": (6, 224),
}
BATCHES = (64, 1024)
CALLS = 20


def block(which: int, size: int, device: torch.device) -> InvertedResidual:
    """One block of MobileNetV2, its weights as they are drawn."""
    torch.manual_seed(0)
    model: nn.Module = build_model("mobilenet_v2", num_classes=10, image_shape=(3, size, size))
    model = model.to(device).eval().requires_grad_(False)
    images = torch.rand(1, 3, size, size, device=device)
    with computing(model):
        program = compile_phi(Phi(model, find_source_layer(model, images)), images)
    place = blocks_of(program)[which]
    fused, origin = fuse_blocks(program, (place,))
    op = fused.ops[origin.index(place)]
    assert isinstance(op, InvertedResidual)
    return op


@pytest.mark.gpu
@pytest.mark.benchmark(group="inverted_residual")
@pytest.mark.parametrize("images", BATCHES)
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("name", BLOCKS)
def test_block(
    race: Callable[..., dict[str, float]],
    benchmark: Any,
    device: torch.device,
    name: str,
    precision: str,
    images: int,
) -> None:
    op = block(*BLOCKS[name], device)
    dtype = activation_dtype(torch.float32, precision)
    x = torch.randn((images, *op.in_shapes[0]), device=device)
    x = x.to(memory_format=torch.channels_last)
    programs = alone(op, torch.randn(op.shape, device=device))
    contenders: dict[str, Callable[[], object]] = {}
    with computing(nn.Identity(), precision), torch.no_grad():
        for what, program in zip(("convolutions", "block"), programs, strict=True):
            step = Step(program, dtype, device, images, Choices(images), tf32=precision == "tf32")
            contenders[what] = record_cuda_graph(lambda step=step: step.delta(x), device)
        moved = 2 * images * (op.expand.in_shapes[0][0] * x.shape[2] * x.shape[3])
        moved += 2 * images * op.shape[0] * op.shape[1] * op.shape[2]
        moved *= torch.empty((), dtype=dtype).element_size()
        moved += 2 * images * sum(r.bytes for r in op.residues())
        medians = race(
            contenders,
            baseline="convolutions",
            calls=CALLS,
            block=name,
            images=images,
            precision=precision,
            bytes_moved=moved,
        )
    benchmark.extra_info["bandwidth_gb_s"] = moved / medians["block"] / 1e9
    benchmark.extra_info["tflop_s"] = 2 * op.flops() * images / medians["block"] / 1e12
