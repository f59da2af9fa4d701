"""masked_cotangent against torch's own operators, and against a copy.

Torch derives the mask from the activation's value, the operator reads a bit mask. The floor is a
copy of the same number of bytes: `fraction_of_copy` is the share of a plain copy's bandwidth that
the operator reaches in the same race.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sign_ext.ops.activate import pack_mask
from sign_ext.ops.activation import RELU, mask_shape
from sign_ext.ops.masked_cotangent import masked_cotangent
from sign_ext.ops.native import route

# A layer's cotangent: it fits a CPU's cache, but no cache of a GPU.
SHAPES = {"cpu": (4, 64, 32, 32), "cuda": (256, 256, 56, 56)}
CALLS = {"cpu": 50, "cuda": 20}
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@pytest.mark.benchmark(group="masked_cotangent")
@pytest.mark.parametrize("everything", [False, True], ids=["relu", "sum-relu-scale"])
@pytest.mark.parametrize("dtype", NAMES, ids=NAMES.values())
def test_masked_cotangent(
    race: Callable[..., dict[str, float]],
    benchmark: Any,
    device: torch.device,
    dtype: torch.dtype,
    everything: bool,
) -> None:
    shape = SHAPES[device.type]
    generator = torch.Generator(device).manual_seed(0)
    g, other, y, out = (
        torch.randn(shape, device=device, generator=generator)
        .to(dtype)
        .contiguous(memory_format=torch.channels_last)
        for _ in range(4)
    )
    y.relu_()
    scale = torch.randn(shape[1], device=device, generator=generator) if everything else None
    mask = torch.empty(mask_shape(shape), dtype=torch.uint8, device=device)
    pack_mask(y, mask, RELU)
    moved = g.numel() * g.element_size() * (3 if everything else 2) + mask.numel()
    copied = [torch.zeros(moved // 2, dtype=torch.uint8, device=device) for _ in range(2)]

    def native() -> None:
        masked_cotangent(g, out, mask=mask, scale=scale, other=other if everything else None)

    def unfused() -> None:
        if scale is not None:
            torch.add(g, other, out=out)
            torch.ops.aten.threshold_backward.grad_input(out, y, 0, grad_input=out)
            out.mul_(scale.view(1, -1, 1, 1).to(dtype))
        else:
            torch.ops.aten.threshold_backward.grad_input(g, y, 0, grad_input=out)

    def copy() -> None:
        copied[1].copy_(copied[0])

    medians = race(
        {"unfused torch": unfused, "masked_cotangent": native, "copy of as many bytes": copy},
        baseline="unfused torch",
        calls=CALLS[device.type],
        shape="x".join(map(str, shape)),
        dtype=NAMES[dtype],
        route=route(g),
        bytes_moved=moved,
    )
    benchmark.extra_info["bandwidth_gb_s"] = moved / medians["masked_cotangent"] / 1e9
    benchmark.extra_info["fraction_of_copy"] = (
        medians["copy of as many bytes"] / medians["masked_cotangent"]
    )
