"""A MobileNetV2 block as one operator against its separate convolutions, forward and backward.

Both are steps of the fused backend, replayed as CUDA graphs: cuDNN's 1×1 convolutions, `activate`
and `depthwise`, or `inverted_residual`. `bytes_moved` is the block's floor: its input, output and
residue bits, each once per direction. There is no CPU kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from inverted_residual_variants import blocks, bytes_moved, input_of, steps
from torch import nn

from sign_ext.engine.graphed import record_cuda_graph
from sign_ext.eval_state import computing

# name → (index of the block, image size).
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
    index, size = BLOCKS[name]
    op = blocks(size, device)[index]
    x = input_of(op, images)
    moved = bytes_moved(op, images, precision)
    with computing(nn.Identity(), precision), torch.no_grad():
        contenders: dict[str, Callable[[], object]] = {
            variant: record_cuda_graph(step, device)
            for variant, step in steps(op, x, precision).items()
        }
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
