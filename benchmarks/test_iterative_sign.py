"""K steps of SIGN: our backends against their peers, at equal precision, in one process.

On a CPU all peers compute in float32. On a GPU all but the last run with the TF32 switches off;
"naive, default flags" is what PyTorch does out of the box (TF32 convolutions).
"""

from __future__ import annotations

import copy

import peers
import pytest
import torch
from torch import Tensor

from sign_ext import SignTransform, pullback_of_ones
from sign_ext.models import build_model

WORK = {"cpu": (128, 10), "cuda": (1024, 50)}  # images and steps
MOVE = 0.5  # grey levels rms that a first step moves images by


def ieee(run: peers.Run) -> peers.Run:
    """The same with the TF32 switches off."""

    def inner(images: Tensor) -> Tensor:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
            return run(images)

    return inner


@pytest.mark.parametrize("name", ["basic_cnn", "mobilenet_v2"])
def test_iterative_sign(race, device, name):
    torch.manual_seed(0)
    count, steps = WORK[device.type]
    model = build_model(name).to(device).eval()
    images = torch.rand(count, 3, 32, 32, device=device) * 255
    step_size = MOVE / float(pullback_of_ones(model, images[:32]).square().mean().sqrt())
    turns = [images, images.flip(0), images.flip(3)]  # no result can stay in a cache

    def phi() -> torch.nn.Module:
        return peers.features_of(copy.deepcopy(model))

    ways = {
        "naive .backward()": peers.naive(phi(), steps, step_size),
        "frozen autograd.grad": peers.frozen(phi(), steps, step_size),
        "frozen, channels_last": peers.frozen(phi(), steps, step_size, channels_last=True),
        "torch.func.grad": peers.functional(phi(), steps, step_size),
        "torch.compile": peers.compiled(phi(), steps, step_size),
    }
    ways = {way: ieee(run) for way, run in ways.items()}
    if device.type == "cuda":
        ways["naive, default flags"] = peers.naive(phi(), steps, step_size)
    for backend in ("autograd", "graphed") if device.type == "cuda" else ("autograd",):
        sign = SignTransform(model, steps, step_size=step_size, batch_size=count, backend=backend)
        ways[f"sign_ext {backend}"] = sign.transform  # type: ignore[assignment]

    expected = ways["naive .backward()"](images)
    for way, run in ways.items():
        error = (run(images) - expected).norm() / (expected - images).norm()
        assert error < (0.1 if "default" in way else 1e-2), f"{way} computes something else"

    state = dict.fromkeys(ways, 0)

    def turn(way: str) -> Tensor:
        state[way] += 1
        return ways[way](turns[state[way] % len(turns)])

    race(
        {way: lambda way=way: turn(way) for way in ways},
        baseline="naive .backward()",
        rounds=5,
        warmup=1,
        network=name,
        images=count,
        steps=steps,
        precision="float32",
    )
