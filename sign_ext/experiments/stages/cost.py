"""What a run will cost: operations counted in advance, and how many a second this machine does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from sign_ext.experiments.stages.runner import StageRunner
from sign_ext.experiments.stages.stage import Stage
from sign_ext.models import build_model

# Cost in forward passes: a training step is a forward pass and two backward ones (to the inputs
# and to the weights), a step of SIGN a forward pass and one backward.
TRAINING, SIGN, FORWARD = 3.0, 2.0, 1.0
PROBE_BATCH = 128


def flops_per_image(model: str, options: dict[str, Any], shape: tuple[int, int, int]) -> float:
    """Count the floating-point operations of one forward pass of one image.

    Args:
        model: a name for `build_model`.
        options: of that model.
        shape: (3, H, W).

    Returns:
        Two for each multiply-add of convolutions and matrix products, as PyTorch counts them.

    Example:
        >>> round(flops_per_image("basic_cnn", {}, (3, 32, 32)) / 1e6)
        53
    """
    return _counted(model, tuple(sorted(options.items())), shape)


@cache
def _counted(
    model: str, options: tuple[tuple[str, Any], ...], shape: tuple[int, int, int]
) -> float:
    with torch.random.fork_rng(devices=[]):  # keeps the global random state
        network = build_model(model, num_classes=10, image_shape=shape, **dict(options))
    network = network.eval().to("meta")  # shapes only: nothing is computed
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, *shape, device="meta"))
    return float(counter.get_total_flops())


def measured_rate(runner: StageRunner, stages: Sequence[Stage]) -> float | None:
    """Operations a second over the finished stages; None if there are none."""
    flops = seconds = 0.0
    for stage in stages:
        outcome = runner.outcome(stage)
        if outcome is not None and stage.flops():
            flops += stage.flops()
            seconds += outcome.seconds
    return flops / seconds if seconds else None


def probed_rate(device: torch.device) -> float:
    """Operations a second of BasicCNN's forward and backward pass, timed after one warm-up."""
    with torch.random.fork_rng(devices=[]):
        model = build_model("basic_cnn").to(device)
    images = torch.zeros(PROBE_BATCH, 3, 32, 32, device=device)
    seconds = 1.0
    for _ in range(2):
        began = time.perf_counter()
        model(images).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - began
    return flops_per_image("basic_cnn", {}, (3, 32, 32)) * TRAINING * PROBE_BATCH / seconds
