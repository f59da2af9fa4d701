"""δ of one compiled step: every family, odd sizes and batches, each precision, random networks."""

from __future__ import annotations

import pytest
import step_checks
import torch
from families import FAMILIES, QUICK_FAMILIES, some_slow
from hypothesis import HealthCheck, given, settings
from networks import basic_cnn, lively
from random_networks import networks
from torch import Tensor, nn

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


class Parts(nn.Module):
    """Reads a value again after a part of it, which is a view for one image, went through ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.classifier = nn.Conv2d(3, 8, 3), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        rows = torch.cat([torch.relu(y[:, :, :3] - 0.2), y], 2).mean((2, 3))
        pooled = y.mean((2, 3), keepdim=True)
        flat = torch.relu(pooled.flatten(1) - 0.1) * pooled.flatten(1)
        return self.classifier(torch.cat([rows, flat], 1))


@pytest.mark.parametrize("count", [1, 2])
def test_a_part_is_not_written_over_what_it_is_part_of(count, torch_rng):
    torch.manual_seed(2)
    images = torch.randn(count, 3, 9, 7, generator=torch_rng)
    step_checks.check(Parts().eval().requires_grad_(False), images)


def test_the_same_call_gives_the_same_bits():
    model, images = build("mobilenet_v2", (33, 47), 5, "cpu", seed=9)
    with torch.no_grad():
        source = SourceLayer("classifier.1", "input", "Linear")
        model.eval().requires_grad_(False)
        first = step_checks.step_delta(model, images, source)
        second = step_checks.step_delta(model, images, source)
    assert torch.equal(first, second)


class Assorted(nn.Module):
    """Operations with files of their own: norms, exponential units, PReLU, upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, padding=1)
        self.norms = nn.ModuleList([nn.GroupNorm(2, 6), nn.InstanceNorm2d(6, affine=True)])
        self.act, self.classifier = nn.PReLU(6), nn.Linear(6, 2)
        self.last = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 6))
        nn.init.normal_(self.act.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norms[0](self.first(x)))
        z = self.act(self.norms[1](self.second(y)) + y)
        z = z + self.last(z.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        z = nn.functional.interpolate(nn.functional.selu(z), scale_factor=2)
        return self.classifier(nn.functional.celu(z, 0.7).mean((2, 3)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_operations_with_files_of_their_own(precision, device, torch_rng):
    torch.manual_seed(3)
    images = torch.randn(3, 3, 9, 7, generator=torch_rng).to(device)
    step_checks.check(Assorted().eval().requires_grad_(False).to(device), images, precision)
