"""max_pool_backward against torch's ReLU and pooling backward, and against a copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pool_layers import CALLS, MAX_POOLS, NAMES, channels_last
from torch.nn import functional as F

from sign_ext.ops.activation import RELU, mask_shape
from sign_ext.ops.max_pool import index_shape, max_pool, max_pool_backward
from sign_ext.ops.native import route


@pytest.mark.benchmark(group="max_pool_backward")
@pytest.mark.parametrize("dtype", NAMES, ids=NAMES.values())
@pytest.mark.parametrize("name", MAX_POOLS)
def test_max_pool_backward(
    race: Callable[..., dict[str, float]],
    benchmark: Any,
    device: torch.device,
    name: str,
    dtype: torch.dtype,
) -> None:
    pool = MAX_POOLS[name]
    generator = torch.Generator(device).manual_seed(0)
    x = channels_last(pool.input_shape(device), generator, dtype)
    y, g = (channels_last(pool.output_shape(device), generator, dtype) for _ in range(2))
    index, mask = (
        torch.empty(size, dtype=torch.uint8, device=device)
        for size in (index_shape(y.shape, pool.options["kernel"]), mask_shape(y.shape))
    )
    max_pool(x, y, index, **pool.options, activation=RELU, mask=mask)
    _, flat = F.max_pool2d(x, pool.kernel, pool.stride, pool.padding, return_indices=True)
    out = torch.empty_like(x)
    moved = (x.numel() + g.numel()) * x.element_size() + index.numel() + mask.numel()
    copied = [torch.zeros(moved // 2, dtype=torch.uint8, device=device) for _ in range(2)]
    kernel, stride, padding = ([value] * 2 for value in (pool.kernel, pool.stride, pool.padding))

    def native() -> None:
        max_pool_backward(g, index, out, **pool.options, mask=mask)

    def unfused() -> None:
        masked = torch.ops.aten.threshold_backward(g, y, 0)
        torch.ops.aten.max_pool2d_with_indices_backward(
            masked, x, kernel, stride, padding, [1, 1], False, flat
        )

    def copy() -> None:
        copied[1].copy_(copied[0])

    medians = race(
        {"unfused torch": unfused, "max_pool_backward": native, "copy of as many bytes": copy},
        baseline="unfused torch",
        calls=CALLS[device.type],
        layer=name,
        shape="x".join(map(str, x.shape)),
        dtype=NAMES[dtype],
        route=route(g),
        bytes_moved=moved,
    )
    benchmark.extra_info["bandwidth_gb_s"] = moved / medians["max_pool_backward"] / 1e9
    benchmark.extra_info["fraction_of_copy"] = (
        medians["copy of as many bytes"] / medians["max_pool_backward"]
    )
