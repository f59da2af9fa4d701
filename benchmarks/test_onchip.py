"""The onchip backend with 128, 256 and 512 threads per block against the fused one (GPU only).

The floor is given by shared memory: the clock cycles of the kernel's loads from it
(`sign_ext.engine.onchip.cost`) at the multiprocessor's highest clock rate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sign_ext import SignTransform
from sign_ext.engine.onchip.cost import work_of
from sign_ext.engine.onchip.engine import shared_memory_of, start_on_chip
from sign_ext.engine.onchip.network import put_on_chip
from sign_ext.models import build_model

IMAGES, STEPS = 1024, 20
THREADS = (128, 256, 512)


@pytest.mark.benchmark(group="onchip")
def test_basic_cnn(
    race: Callable[..., dict[str, float]], benchmark: Any, device: torch.device
) -> None:
    if device.type != "cuda":
        pytest.skip("the onchip backend needs a GPU")
    torch.manual_seed(0)
    model = build_model("basic_cnn", image_shape=(3, 32, 32)).to(device).eval()
    images = 255 * torch.rand(IMAGES, 3, 32, 32, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    sign = SignTransform(model, STEPS, precision="bfloat16", backend="fused")
    program = sign.program(images)
    problem = sign._problem(images, torch.float32)[0]
    fused = sign.engines.fused.start(problem, images)
    contenders: dict[str, Callable[[], None]] = {"fused": lambda: fused.advance(STEPS)}
    clocks = {}
    chip = torch.cuda.get_device_properties(device)
    for threads in THREADS:
        network = put_on_chip(program, shared_memory_of(device), device, threads=threads)
        trajectory = start_on_chip(problem, images, network)
        trajectory.start(images)
        trajectory.record(sign.engines.onchip._record)
        name = f"on chip, {threads} threads"
        contenders[name] = lambda each=trajectory: each.advance(STEPS)  # type: ignore[misc]
        clocks[name] = work_of(network).clocks * IMAGES * STEPS / chip.multi_processor_count
    medians = race(contenders, baseline="fused", calls=3, images=IMAGES, steps=STEPS)
    rate = getattr(chip, "clock_rate", 0) * 1e3  # Hz; only recent releases of torch have it
    for name, count in clocks.items():
        benchmark.extra_info[f"{name}: microseconds an image and step"] = (
            medians[name] / IMAGES / STEPS * 1e6
        )
        if rate:
            benchmark.extra_info[f"{name}: share of the floor"] = count / rate / medians[name]
