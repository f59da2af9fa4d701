"""Errors of the onchip kernel's δ of one step, for every image, without a tolerance.

The kernel is compared with its definition (float64, rounded where the kernel rounds) and with δ in
float64. The latter error includes bfloat16's rounding and the mask bits that it flips; the fused
backend's error shows how much that is.
"""

from __future__ import annotations

import sys

import torch
from common import NEEDS_GPU, begin, distribution, each_distance
from facts import Facts
from onchip_setup import NETWORKS, STEP_SIZE, OnChipSetup
from torch import Tensor

from sign_ext.engine.onchip.check import find_mismatch
from sign_ext.engine.onchip.trajectory import OnChipTrajectory
from sign_ext.pushforward import pullback_of_ones


def delta_of(trajectory: OnChipTrajectory, images: Tensor) -> Tensor:
    """δ of the first step in float64: the change divided by the step size."""
    trajectory.start(images)
    trajectory.advance(1)
    return (trajectory.iterate.double() - images.double()) / STEP_SIZE


def record_errors(setup: OnChipSetup, facts: Facts, labels: dict[str, object]) -> None:
    """Record each error as a distribution over the images."""
    images, trajectory = setup.images, setup.on_chip()
    got = delta_of(trajectory, images)
    facts.record(
        "ran", **labels, finite=bool(torch.isfinite(got).all()), whole=trajectory.network.is_whole
    )
    errors = distribution(each_distance(got, trajectory.reference(images)))
    facts.record("error to its definition", **labels, **errors, unit="relative L2")
    why = find_mismatch(trajectory, images)
    facts.record("check through its own mask bits", **labels, wrong=why or None, right=not why)
    again = delta_of(trajectory, images)
    same = float((got == again).flatten(1).all(dim=1).double().mean())
    facts.record("images with the same bits again", **labels, share=same, right=same == 1.0)
    setup.model.double()
    exact = pullback_of_ones(setup.model, images.double())
    setup.model.float()
    facts.record("error to float64", **labels, **distribution(each_distance(got, exact)))
    fused = setup.sign.engines.fused.start(setup.problem, images)
    fused.advance(1)
    moved = (fused.iterate.double() - images.double()) / STEP_SIZE
    facts.record("error of fused to float64", **labels, **distribution(each_distance(moved, exact)))


def main() -> None:
    """Check one network, few images first: a kernel that hangs or fails does so there."""
    device, facts = begin()
    name = sys.argv[1]
    assert name in NETWORKS
    on_gpu = device.type == "cuda"
    size = 32 if on_gpu else 8
    for images in (4, 256) if on_gpu else (2,):
        labels: dict[str, object] = {"network": name, "shape": f"{images}x3x{size}x{size}"}
        if not on_gpu:
            labels["on"] = f"the emulation; {NEEDS_GPU}"
        record_errors(
            OnChipSetup(name, images, size, device), facts, {**labels, "dtype": "bfloat16"}
        )


if __name__ == "__main__":
    main()
