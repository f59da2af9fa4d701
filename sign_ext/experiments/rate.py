"""How fast this machine computes, for telling how long something will take."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from sign_ext.experiments.stages.cost import TRAINING, flops_per_image
from sign_ext.experiments.stages.runner import Lab
from sign_ext.experiments.stages.stage import Stage

PROBE_BATCH = 128


def measured_rate(lab: Lab, stages: Sequence[Stage]) -> float | None:
    """Operations a second over the stages that are done; None if there are none."""
    flops = seconds = 0.0
    for stage in stages:
        outcome = lab.outcome(stage)
        if outcome is not None and stage.flops():
            flops += stage.flops()
            seconds += outcome.seconds
    return flops / seconds if seconds else None


def probed_rate(device: torch.device) -> float:
    """Operations a second of a training step of BasicCNN: the second of two is timed."""
    from sign_ext.models import build_model

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
