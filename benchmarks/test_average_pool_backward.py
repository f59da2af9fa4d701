"""average_pool_backward with the ReLU before it against torch's, and against a copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pool_layers import AVERAGE_POOLS, CALLS, NAMES, channels_last

from sign_ext.ops.activation import RELU, mask_shape, pack_bits
from sign_ext.ops.average_pool_backward import average_pool_backward
from sign_ext.ops.native import route


@pytest.mark.benchmark(group="average_pool_backward")
@pytest.mark.parametrize("dtype", NAMES, ids=NAMES.values())
@pytest.mark.parametrize("name", AVERAGE_POOLS)
def test_average_pool_backward(
    race: Callable[..., dict[str, float]],
    benchmark: Any,
    device: torch.device,
    name: str,
    dtype: torch.dtype,
) -> None:
    pool = AVERAGE_POOLS[name]
    generator = torch.Generator(device).manual_seed(0)
    x = channels_last(pool.input_shape(device), generator, dtype).relu_()
    g = channels_last(pool.output_shape(device), generator, dtype)
    x_mask = pack_bits(RELU.passes(x))
    assert x_mask.shape == mask_shape(x.shape)
    out = torch.empty_like(x)
    moved = (x.numel() + g.numel()) * x.element_size() + x_mask.numel()
    copied = [torch.zeros(moved // 2, dtype=torch.uint8, device=device) for _ in range(2)]
    kernel, stride, padding = ([value] * 2 for value in (pool.kernel, pool.stride, pool.padding))

    def native() -> None:
        average_pool_backward(g, out, **pool.options, count_include_pad=False, x_mask=x_mask)

    def unfused() -> None:
        spread = torch.ops.aten.avg_pool2d_backward(
            g, x, kernel, stride, padding, False, False, None
        )
        torch.ops.aten.threshold_backward(spread, x, 0)

    def copy() -> None:
        copied[1].copy_(copied[0])

    contenders = {
        "unfused torch": unfused,
        "average_pool_backward": native,
        "copy of as many bytes": copy,
    }
    medians = race(
        contenders,
        baseline="unfused torch",
        calls=CALLS[device.type],
        layer=name,
        shape="x".join(map(str, x.shape)),
        dtype=NAMES[dtype],
        route=route(g),
        bytes_moved=moved,
    )
    benchmark.extra_info["bandwidth_gb_s"] = moved / medians["average_pool_backward"] / 1e9
    benchmark.extra_info["fraction_of_copy"] = (
        medians["copy of as many bytes"] / medians["average_pool_backward"]
    )
