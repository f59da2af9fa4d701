"""U-Nets: compiled whole, right, and planned as they run."""

from __future__ import annotations

import pytest
import step_checks
import torch
from measured_memory import check_plan, peak_bytes
from networks import lively
from torch import nn
from unet import UNet

from sign_ext import SignTransform
from sign_ext.eval_state import computing
from sign_ext.source_layer import SourceLayer

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
HEAD = SourceLayer("head", "input", "Conv2d")
VARIANTS = [(up, norm) for up in ("transposed", "bilinear") for norm in ("batch", "group")]


def network_of(up: str, norm: str, device: str = "cpu") -> nn.Module:
    torch.manual_seed(4)
    model = lively(UNet(up=up, norm=norm), torch.Generator().manual_seed(4))
    return model.eval().requires_grad_(False).to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("up", "norm"), VARIANTS)
def test_delta(up, norm, device, torch_rng):
    images = torch.rand(3, 3, 12, 20, generator=torch_rng).to(device)
    ours, eager = step_checks.errors(network_of(up, norm, device), images, source=HEAD)
    assert step_checks.within(ours, eager)


@pytest.mark.parametrize(("up", "norm"), VARIANTS)
def test_nothing_of_it_is_an_island(up, norm, torch_rng):
    network = nn.Sequential(network_of(up, norm), nn.Flatten(), nn.Linear(3 * 12 * 20, 2))
    sign = SignTransform(network.eval())
    found = sign.explain(torch.rand(1, 3, 12, 20, generator=torch_rng))
    assert found.backend == "fused"
    assert not found.islands


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("up", "norm"), VARIANTS)
def test_the_plan_is_the_allocators_peak(up, norm, device, torch_rng):
    model, count = network_of(up, norm, device), 8
    images = torch.rand(count, 3, 32, 32, generator=torch_rng).to(device)
    images = images.to(memory_format=torch.channels_last)
    step = step_checks.bound_step(model, images, HEAD)
    with computing(model), torch.no_grad():
        measured = peak_bytes(lambda: step.delta(images), images.device)
    check_plan(count * step.memory.peak, measured, images.device, 0.05)
