"""δ of one compiled step: every family, odd sizes and batches, each precision, random networks."""

from __future__ import annotations

import pytest
import step_checks
import torch
from families import FAMILIES, QUICK_FAMILIES, some_slow
from hypothesis import HealthCheck, given, settings
from networks import basic_cnn, lively
from random_networks import networks

from sign_ext.source_layer import SourceLayer

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def build(name, size, count, device, seed):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = lively(FAMILIES[name][0](), generator).to(device)
    images = torch.rand(count, 3, *size, generator=generator).to(device)
    if name == "basic_cnn":
        images *= 255  # it divides by that
    return model, images


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", some_slow(FAMILIES, QUICK_FAMILIES))
def test_every_family_at_its_odd_size(name, device):
    model, images = build(name, FAMILIES[name][1], 6, device, seed=5)
    step_checks.check_median(model, list(images.split(2)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (32, 32)])
def test_mobilenet_at_odd_sizes(size, count, device):
    step_checks.check(*build("mobilenet_v2", size, count, device, seed=6))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (4, 5)])
def test_basic_cnn_at_odd_sizes(size, count, device, seed):
    torch.manual_seed(seed)
    images = 255 * torch.rand(count, 3, *size)
    step_checks.check(basic_cnn(*size).to(device), images.to(device))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
@pytest.mark.parametrize("name", ["basic_cnn", "mobilenet_v2", "resnet18", "efficientnet"])
def test_each_precision(name, precision, device):
    model, images = build(name, FAMILIES[name][1], 4, device, seed=7)
    step_checks.check(model, images, precision)


@pytest.mark.parametrize("device", DEVICES)
def test_float64_networks_stay_in_float64(device):
    model, images = build("resnet18", (33, 35), 2, device, seed=8)
    ours, _ = step_checks.errors(model.double(), images.double())
    assert ours < 1e-12


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(networks())
def test_random_networks(case):
    network, images = case
    source = SourceLayer("classifier", "input", "Linear")
    try:
        ours, eager = step_checks.errors(network, images, source=source)
    except RuntimeError as error:
        if "does not" not in str(error):
            raise
        return
    # δ of a random network may be nothing but what rounding leaves of it.
    assert not ours > max(3e-5, 10 * eager)


def test_the_same_call_gives_the_same_bits():
    model, images = build("mobilenet_v2", (33, 47), 5, "cpu", seed=9)
    with torch.no_grad():
        source = SourceLayer("classifier.1", "input", "Linear")
        model.eval().requires_grad_(False)
        first = step_checks.step_delta(model, images, source)
        second = step_checks.step_delta(model, images, source)
    assert torch.equal(first, second)
