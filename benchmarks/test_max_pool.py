"""max_pool against torch's pooling, bias and ReLU, and against a copy of the same bytes.

Both also return the positions of the maxima for the backward pass, the operator in a few bits,
along with the bit mask of the activation. `fraction_of_copy` is the share of a copy's bandwidth
that the operator reaches in the same race.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pool_layers import CALLS, MAX_POOLS, NAMES, channels_last
from torch.nn import functional as F

from sign_ext.ops.activation import RELU, mask_shape
from sign_ext.ops.max_pool import index_shape, max_pool
from sign_ext.ops.native import route


@pytest.mark.benchmark(group="max_pool")
@pytest.mark.parametrize("dtype", NAMES, ids=NAMES.values())
@pytest.mark.parametrize("name", MAX_POOLS)
def test_max_pool(
    race: Callable[..., dict[str, float]],
    benchmark: Any,
    device: torch.device,
    name: str,
    dtype: torch.dtype,
) -> None:
    pool = MAX_POOLS[name]
    generator = torch.Generator(device).manual_seed(0)
    x = channels_last(pool.input_shape(device), generator, dtype)
    y = channels_last(pool.output_shape(device), generator, dtype)
    bias = torch.randn(pool.channels, device=device, generator=generator)
    column = bias.to(dtype)[:, None, None]
    index, mask = (
        torch.empty(size, dtype=torch.uint8, device=device)
        for size in (index_shape(y.shape, pool.options["kernel"]), mask_shape(y.shape))
    )
    moved = (x.numel() + y.numel()) * x.element_size() + index.numel() + mask.numel()
    copied = [torch.zeros(moved // 2, dtype=torch.uint8, device=device) for _ in range(2)]

    def native() -> None:
        max_pool(x, y, index, **pool.options, bias=bias, activation=RELU, mask=mask)

    def unfused() -> None:
        value, _ = F.max_pool2d(x, pool.kernel, pool.stride, pool.padding, return_indices=True)
        value.add_(column).relu_()

    def copy() -> None:
        copied[1].copy_(copied[0])

    medians = race(
        {"unfused torch": unfused, "max_pool": native, "copy of as many bytes": copy},
        baseline="unfused torch",
        calls=CALLS[device.type],
        layer=name,
        shape="x".join(map(str, x.shape)),
        dtype=NAMES[dtype],
        route=route(x),
        bytes_moved=moved,
    )
    benchmark.extra_info["bandwidth_gb_s"] = moved / medians["max_pool"] / 1e9
    benchmark.extra_info["fraction_of_copy"] = (
        medians["copy of as many bytes"] / medians["max_pool"]
    )
