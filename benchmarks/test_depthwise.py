"""depthwise and depthwise_backward against torch's own convolution at the same precision.

A layer is the convolution with its bias and ReLU6, and its backward pass. For that torch keeps the
activation's value, the operators its bit mask. `bytes_moved` is the operator's floor: everything
that it reads and writes, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sign_ext.ops.activation import RELU6, mask_shape
from sign_ext.ops.depthwise import depthwise, depthwise_backward
from sign_ext.ops.native import route

# name → (channels, image size, kernel size, stride) in MobileNetV2 and NASNet on 32×32 images.
LAYERS = {
    "mobilenet-32": (96, 32, 3, 1),
    "mobilenet-32-stride-2": (96, 32, 3, 2),
    "mobilenet-16": (144, 16, 3, 1),
    "mobilenet-4": (384, 4, 3, 1),
    "mobilenet-2": (960, 2, 3, 1),
    "nasnet-16": (88, 16, 5, 1),
    "nasnet-32": (44, 32, 7, 1),
}
BATCH = {"cpu": 32, "cuda": 256}
CALLS = {"cpu": 1, "cuda": 20}
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@pytest.mark.benchmark(group="depthwise")
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("dtype", NAMES, ids=NAMES.values())
@pytest.mark.parametrize("layer", LAYERS)
def test_depthwise(
    race: Callable[..., dict[str, float]],
    benchmark: Any,
    device: torch.device,
    dtype: torch.dtype,
    layer: str,
    backward: bool,
) -> None:
    channels, size, side, stride = LAYERS[layer]
    half = side // 2
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, generator=generator)

    x = normal(BATCH[device.type], channels, size, size)
    x = x.to(dtype, memory_format=torch.channels_last)
    weight, bias = normal(side, side, channels), normal(channels)
    filters, narrow_bias = weight.permute(2, 0, 1)[:, None].to(dtype), bias.to(dtype)
    geometry: dict[str, Any] = {"stride": (stride, stride), "padding": (half, half)}
    value = F.conv2d(x, filters, narrow_bias, **geometry, groups=channels)
    y, g = torch.empty_like(value), torch.randn_like(value)
    mask = torch.empty(mask_shape(value.shape), dtype=torch.uint8, device=device)
    cotangent = torch.empty_like(x)

    def native() -> None:
        if backward:
            depthwise_backward(g, weight, cotangent, mask=mask, **geometry)
        else:
            depthwise(x, weight, y, bias=bias, activation=RELU6, mask=mask, **geometry)

    def with_torch() -> None:
        if not backward:
            F.conv2d(x, filters, narrow_bias, **geometry, groups=channels).clamp_(0, 6)
            return
        torch.ops.aten.convolution_backward(
            torch.ops.aten.hardtanh_backward(g, value, 0, 6),
            x,
            filters,
            None,
            *geometry.values(),
            (1, 1),
            False,
            (0, 0),
            channels,
            (True, False, False),
        )

    depthwise(x, weight, y, bias=bias, activation=RELU6, mask=mask, **geometry)
    value.copy_(y)
    moved = (x.numel() + y.numel()) * x.element_size() + mask.numel()
    medians = race(
        {"torch": with_torch, "sign_ext": native},
        baseline="torch",
        calls=CALLS[device.type],
        layer=layer,
        shape="x".join(map(str, x.shape)),
        kernel=side,
        stride=stride,
        dtype=NAMES[dtype],
        route=route(x),
        bytes_moved=moved,
    )
    benchmark.extra_info["bandwidth_gb_s"] = moved / medians["sign_ext"] / 1e9
