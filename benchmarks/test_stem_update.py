"""stem_update_ against torch's convolution backward to the input and update of the image.

On a CPU the arithmetic is the floor, so a race also reports multiply-adds per second; on a GPU the
bytes matter about as much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

from sign_ext.ops.activation import mask_shape, unpack_bits
from sign_ext.ops.native import route
from sign_ext.ops.stem_update import stem_update_


class Stem(NamedTuple):
    size: int
    channels: int
    kernel: int
    stride: int
    images: dict[str, int]


STEMS = {
    "32x32, 32 of 3x3": Stem(32, 32, 3, 1, {"cpu": 64, "cuda": 4096}),
    "32x32, 64 of 3x3": Stem(32, 64, 3, 1, {"cpu": 64, "cuda": 4096}),
    "224x224, 32 of 3x3/2": Stem(224, 32, 3, 2, {"cpu": 4, "cuda": 128}),
    "224x224, 64 of 7x7/2": Stem(224, 64, 7, 2, {"cpu": 4, "cuda": 128}),
}
STEP, LOW, HIGH = 0.5, 0.0, 255.0
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@pytest.mark.benchmark(group="stem_update_")
@pytest.mark.parametrize("dtype", NAMES, ids=NAMES.values())
@pytest.mark.parametrize("name", STEMS)
def test_stem_update(
    race: Callable[..., dict[str, float]],
    benchmark: Any,
    device: torch.device,
    name: str,
    dtype: torch.dtype,
) -> None:
    stem = STEMS[name]
    images, padding = stem.images[device.type], stem.kernel // 2
    out = (stem.size + 2 * padding - stem.kernel) // stem.stride + 1
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, generator=generator)

    last = torch.channels_last
    p = normal(images, 3, stem.size, stem.size).contiguous(memory_format=last)
    g = normal(images, stem.channels, out, out).to(dtype, memory_format=last)
    weight = normal(stem.kernel, stem.kernel, 3, stem.channels)
    mask = torch.randint(
        256, mask_shape(g.shape), generator=generator, dtype=torch.uint8, device=device
    )
    bits = unpack_bits(mask, g.shape).contiguous(memory_format=last)
    kernel = weight.permute(3, 2, 0, 1).to(dtype, memory_format=last)
    stride, pads = (stem.stride,) * 2, (padding,) * 2

    def native() -> None:
        stem_update_(
            p,
            g,
            weight,
            mask=mask,
            stride=stride,
            padding=pads,
            step_size=STEP,
            clamp_min=LOW,
            clamp_max=HIGH,
        )

    def unfused() -> None:
        masked = torch.where(bits, g, 0)
        delta = torch.nn.grad.conv2d_input(p.shape, kernel, masked, stride, pads)
        p.add_(delta, alpha=STEP).clamp_(LOW, HIGH)

    moved = g.numel() * g.element_size() + mask.numel() + p.numel() * 8
    products = g.numel() * stem.kernel**2 * 3
    medians = race(
        {"unfused torch": unfused, "stem_update_": native},
        baseline="unfused torch",
        calls=20 if device.type == "cuda" else 1,
        shape=name,
        images=images,
        dtype=NAMES[dtype],
        route=route(g),
        bytes_moved=moved,
        multiply_adds=products,
    )
    benchmark.extra_info["microseconds_an_image"] = medians["stem_update_"] / images * 1e6
    benchmark.extra_info["bandwidth_gb_s"] = moved / medians["stem_update_"] / 1e9
    benchmark.extra_info["gigaflops"] = 2 * products / medians["stem_update_"] / 1e9
