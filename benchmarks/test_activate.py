"""activate against torch's own operators, and against a copy.

The operator also writes the bit mask; torch does not need one because autograd keeps y. The floor
is a copy of the same number of bytes: `fraction_of_copy` is the share of a plain copy's bandwidth
that the operator reaches in the same race.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sign_ext.ops.activate import activate
from sign_ext.ops.activation import RELU, mask_shape
from sign_ext.ops.native import route

# A convolution's output: it fits a CPU's cache, but no cache of a GPU.
SHAPES = {"cpu": (4, 64, 32, 32), "cuda": (256, 256, 56, 56)}
CALLS = {"cpu": 50, "cuda": 20}
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@pytest.mark.benchmark(group="activate")
@pytest.mark.parametrize("everything", [False, True], ids=["relu", "scale-bias-residual-relu"])
@pytest.mark.parametrize("dtype", NAMES, ids=NAMES.values())
def test_activate(
    race: Callable[..., dict[str, float]],
    benchmark: Any,
    device: torch.device,
    dtype: torch.dtype,
    everything: bool,
) -> None:
    shape = SHAPES[device.type]
    generator = torch.Generator(device).manual_seed(0)
    x, residual, out = (
        torch.randn(shape, device=device, generator=generator)
        .to(dtype)
        .contiguous(memory_format=torch.channels_last)
        for _ in range(3)
    )
    scale, bias = (
        torch.randn(shape[1], device=device, generator=generator) if everything else None
        for _ in range(2)
    )
    mask = torch.empty(mask_shape(shape), dtype=torch.uint8, device=device)
    moved = x.numel() * x.element_size() * (3 if everything else 2) + mask.numel()
    copied = [torch.zeros(moved // 2, dtype=torch.uint8, device=device) for _ in range(2)]

    def native() -> None:
        activate(
            x,
            out,
            activation=RELU,
            scale=scale,
            bias=bias,
            residual=residual if everything else None,
            mask=mask,
        )

    def unfused() -> None:
        if scale is not None and bias is not None:
            torch.mul(x, scale.view(1, -1, 1, 1).to(dtype), out=out)
            out.add_(bias.view(1, -1, 1, 1).to(dtype)).add_(residual).relu_()
        else:
            torch.clamp(x, min=0, out=out)

    def copy() -> None:
        copied[1].copy_(copied[0])

    medians = race(
        {"unfused torch": unfused, "activate": native, "copy of as many bytes": copy},
        baseline="unfused torch",
        calls=CALLS[device.type],
        shape="x".join(map(str, shape)),
        dtype=NAMES[dtype],
        route=route(x),
        bytes_moved=moved,
    )
    benchmark.extra_info["bandwidth_gb_s"] = moved / medians["activate"] / 1e9
    benchmark.extra_info["fraction_of_copy"] = (
        medians["copy of as many bytes"] / medians["activate"]
    )
