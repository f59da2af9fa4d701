"""sign_update_ against the same update with torch's own operators, and against a copy.

The floor is a copy of the same number of bytes: `fraction_of_copy` is the share of a plain copy's
bandwidth that the operator reaches in the same race.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sign_ext.ops import sign_update_, sign_update_route

# Images of 3×32×32: too many for any cache; a GPU's memory holds three sets of them.
IMAGES = {"cpu": 4096, "cuda": 32768}
STEP, MOMENTUM, LOW, HIGH = 0.5, 0.9, 0.0, 255.0
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@pytest.mark.benchmark(group="sign_update_")
@pytest.mark.parametrize("with_velocity", [False, True], ids=["plain", "velocity"])
@pytest.mark.parametrize("dtype", NAMES, ids=NAMES.values())
def test_sign_update(
    race: Callable[..., dict[str, float]],
    benchmark: Any,
    device: torch.device,
    dtype: torch.dtype,
    with_velocity: bool,
) -> None:
    shape = (IMAGES[device.type], 3, 32, 32)
    generator = torch.Generator(device).manual_seed(0)
    # Each call uses the next of three sets, so that no data is left in a cache.
    turns: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = []
    for _ in range(3):
        p, delta, velocity = (
            torch.randn(shape, device=device, generator=generator) for _ in range(3)
        )
        turns.append((p, delta.to(dtype), velocity if with_velocity else None))
    count = turns[0][0].numel()
    moved = count * ((16 if with_velocity else 8) + turns[0][1].element_size())
    copied = [torch.empty(moved // 2, dtype=torch.uint8, device=device) for _ in range(2)]
    copied[0].random_(generator=generator)

    next_native, next_unfused = itertools.cycle(turns), itertools.cycle(turns)

    def native() -> None:
        p, delta, velocity = next(next_native)
        sign_update_(
            p, delta, velocity, step_size=STEP, momentum=MOMENTUM, clamp_min=LOW, clamp_max=HIGH
        )

    def unfused() -> None:
        p, delta, velocity = next(next_unfused)
        if velocity is not None:
            velocity.mul_(MOMENTUM).add_(delta)
            p.add_(velocity, alpha=STEP).clamp_(LOW, HIGH)
        else:
            p.add_(delta, alpha=STEP).clamp_(LOW, HIGH)

    def copy() -> None:
        copied[1].copy_(copied[0])

    medians = race(
        {"unfused torch": unfused, "sign_update_": native, "copy of as many bytes": copy},
        baseline="unfused torch",
        calls=20 if device.type == "cuda" else 1,
        shape="x".join(map(str, shape)),
        dtype=NAMES[dtype],
        route=sign_update_route(*turns[0]),
        bytes_moved=moved,
    )
    benchmark.extra_info["bandwidth_gb_s"] = moved / medians["sign_update_"] / 1e9
    benchmark.extra_info["fraction_of_copy"] = (
        medians["copy of as many bytes"] / medians["sign_update_"]
    )
