"""p*_50 on trained weights: as near a float64 walk as eager PyTorch's walk is."""

from __future__ import annotations

import copy
import statistics

import pytest
import torch
from networks import basic_cnn
from torch import nn

from sign_ext import SignTransform
from sign_ext.data import load_data
from sign_ext.reference import iterative_sign_reference

STEPS = 50


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Sequential, torch.Tensor]:
    """A small BasicCNN trained on digits, and images."""
    torch.manual_seed(0)
    train = load_data("digits", image_size=20).train
    images, labels = train.images.float(), train.labels
    model = basic_cnn(20, 20, channels=16)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(2):
        for rows in torch.randperm(len(images)).split(64):
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        assert (model(images[:300]).argmax(1) == labels[:300]).float().mean() > 0.8
    return model, images


@pytest.fixture(scope="module")
def walks(trained) -> list[tuple[torch.Tensor, torch.Tensor, float]]:
    """Three batches, where a float64 walk takes them, and its step size."""
    model, images = trained
    step = SignTransform(model, STEPS).calibrate(images[:32]).proposed
    exact = copy.deepcopy(model).double()[:-1]
    batches = images[:12].split(4)
    return [
        (p, iterative_sign_reference(exact, p.double(), STEPS, step_size=step), step)
        for p in batches
    ]


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_fifty_steps_stay_near_the_float64_walk(trained, walks, precision):
    """The median of three batches: one pre-activation near zero makes a walk a matter of luck."""
    model, _ = trained
    found = []
    for p, wanted, step in walks:
        moved = (wanted - p.double()).norm()
        assert moved > 70
        errors = []
        for backend in ("fused", "autograd"):
            sign = SignTransform(model, STEPS, step_size=step, backend=backend, precision=precision)
            errors.append(float((sign.transform(p).double() - wanted).norm() / moved))
        found.append(errors)
    ours, eager = (statistics.median(column) for column in zip(*found, strict=True))
    assert ours <= max(1e-5, 3 * eager), f"{found}"
    assert ours < 0.2
