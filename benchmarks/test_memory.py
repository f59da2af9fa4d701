"""Peak memory of a step of SIGN beyond weights, images and result, and the bytes autograd saves.

K steps take no more memory than one, since each step releases its memory before the next starts.
`memory.py` defines what is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import contenders
import memory
import peers
import pytest
import torch
from torch import nn

from sign_ext import BackendError
from sign_ext.benchmarking import loops
from sign_ext.benchmarking.loops import Run
from sign_ext.models import build_model

IMAGES = {"basic_cnn": 64, "mobilenet_v2": 64, "inception_resnet_v2": 2}
ON_GPU = 4  # factor on the number of images
EAGER, FROZEN, SAVING = "autograd", "autograd, weights frozen", "memsave_torch"
BACKENDS = ("autograd", "fused")


@pytest.mark.benchmark(group="memory")
@pytest.mark.parametrize("name", IMAGES)
def test_memory(
    benchmark: Any, request: pytest.FixtureRequest, device: torch.device, name: str
) -> None:
    option = request.config.getoption
    usual = IMAGES[name] * (ON_GPU if device.type == "cuda" else 1)
    count = option("--images") or (2 if option("--benchmark-disable") else usual)
    side = 299 if name == "inception_resnet_v2" else 32
    torch.manual_seed(0)
    model = build_model(name, image_shape=(3, side, side)).to(device).eval()
    images = torch.rand(count, 3, side, side, device=device) * 255
    task = contenders.Task(network=name, model=model, images=images, steps=1, step_size=1.0)

    def at_float32(run: Run) -> Run:
        return loops.with_precision("float32", run)

    builders: dict[str, Callable[[], Run]] = {
        EAGER: lambda: at_float32(loops.naive(task.phi(), 1, 1.0)),
        FROZEN: lambda: at_float32(loops.frozen(task.phi(), 1, 1.0)),
        "autograd, frozen, channels_last": lambda: at_float32(
            loops.frozen(task.phi(), 1, 1.0, channels_last=True)
        ),
        SAVING: lambda: at_float32(loops.frozen(peers.memory_saving(task.phi()), 1, 1.0)),
    }
    for backend in BACKENDS:
        builders[f"sign_ext {backend}"] = lambda backend=backend: contenders.ours(task, backend)
    networks: dict[str, Callable[[], nn.Module]] = {
        EAGER: task.phi,
        FROZEN: lambda: task.phi().requires_grad_(False),
        SAVING: lambda: peers.memory_saving(task.phi()),
    }

    rows: dict[str, dict[str, float]] = {}
    absent: dict[str, str] = {}

    def measure() -> None:
        for contender, build in builders.items():
            try:
                rows[contender] = memory.step_rows(build, images)
            except ImportError:
                absent[contender] = "not installed"
            except (BackendError, ValueError) as error:
                if not contender.startswith("sign_ext"):
                    raise
                absent[contender] = contenders.first_line(error)
            else:
                if contender in networks:
                    rows[contender]["saved_per_image"] = memory.saved_per_image(
                        networks[contender], images
                    )

    benchmark.pedantic(measure, rounds=1, iterations=1)
    assert all(row["per_image"] > 0 for row in rows.values())
    benchmark.extra_info.update(
        network=name,
        images=len(images),
        side=side,
        precision="float32",
        device=device.type,
        baseline=EAGER,
        memory=rows,
        absent=absent,
    )
