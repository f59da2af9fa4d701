"""Networks whose weights are bfloat16 or float16, and the parts that they compute in float32."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import lively
from torch import Tensor, nn
from torch.nn import functional as F

from sign_ext import SignTransform
from sign_ext.compiler.build import compile_phi
from sign_ext.errors import UnsupportedOperation
from sign_ext.source_layer import Phi, SourceLayer

SIZE = (3, 12, 8)


class RMS(nn.Module):
    """A norm in float32, as networks in half precision write it."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean((2, 3), keepdim=True) + 1e-5)).to(x.dtype)


class Gate(nn.Module):
    """A sigmoid in float32."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x.to(torch.float32)).type_as(x)


def network_of(middle: nn.Module) -> nn.Module:
    torch.manual_seed(8)
    first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, 2)
    layers = [first, nn.BatchNorm2d(8), nn.SiLU(), middle, second, nn.SiLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(6 * 5 * 3, 2))
    return lively(model, torch.Generator().manual_seed(8)).eval()


def one_step(model: nn.Module, images: Tensor, backend: str) -> Tensor:
    """δ."""
    sign = SignTransform(model, 1, step_size=1.0, backend=backend)
    return sign(images).double() - images.double()


NETWORKS = {
    "plain": lambda: network_of(nn.Identity()),
    "norm": lambda: network_of(RMS()),
    "gate": lambda: network_of(Gate()),
    "group norm": lambda: network_of(nn.GroupNorm(2, 8)),
    "transposed": lambda: network_of(nn.ConvTranspose2d(8, 8, 3, 1, 1)),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NETWORKS)
def test_half_weights(name, dtype, torch_rng):
    """As near to float64 as autograd in half precision comes, and nothing of it an island.

    The activations are smooth: which signs rounding decides would be chance.
    """
    torch.manual_seed(9)
    model = NETWORKS[name]()
    images = torch.rand(4, *SIZE, generator=torch_rng)
    exact = one_step(copy.deepcopy(model).double(), images.double(), "autograd")
    half = model.to(dtype)
    ours, eager = (
        float((one_step(half, images, backend) - exact).norm() / exact.norm())
        for backend in ("fused", "autograd")
    )
    assert ours <= 2 * eager < 0.3
    assert not SignTransform(half, backend="fused").explain(images).islands


CASTS = {
    "float32 to bfloat16": (torch.float32, lambda x: x.to(torch.bfloat16).float()),
    "float32 to float64": (torch.float32, lambda x: x.double().float()),
    "bfloat16 to float64": (torch.bfloat16, lambda x: x.double().to(torch.bfloat16)),
}


@pytest.mark.parametrize("name", CASTS)
def test_other_casts_stay_what_they_are(name):
    """They say what precision a part has: it is an island's, or refused."""
    dtype, function = CASTS[name]

    class Cast(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(function(x))

    phi = Phi(network_of(Cast()).to(dtype), SourceLayer("7", "input", "Linear"))
    image = torch.rand(1, *SIZE).to(dtype)
    with pytest.raises(UnsupportedOperation, match="a change of type"):
        compile_phi(phi, image, strict=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_float16_is_computed_in_float32(name, torch_rng):
    """δ is that of the rounded weights in float64, as near as float32 comes."""
    torch.manual_seed(10)
    half = NETWORKS[name]().half()
    images = torch.rand(3, *SIZE, generator=torch_rng)
    exact = one_step(copy.deepcopy(half).double(), images.double(), "autograd")
    ours = one_step(half, images, "fused")
    assert float((ours - exact).norm() / exact.norm()) < 1e-5
    explained = SignTransform(half).explain(images)
    assert (explained.backend, explained.islands) == ("fused", ())


def test_a_cotangent_too_small_for_float16_is_not_lost(torch_rng):
    """Φ in units of 1e-6: autograd's δ in float16 is 0 in most places."""

    class Small(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2**-20

    half = network_of(Small()).half()
    images = torch.rand(3, *SIZE, generator=torch_rng)
    sign = SignTransform(half, 1, step_size=1e6, backend="fused")
    exact = SignTransform(copy.deepcopy(half).double(), 1, step_size=1e6, backend="autograd")
    moved = exact(images.double()) - images.double()
    assert float((sign(images) - images - moved).norm() / moved.norm()) < 1e-5


class Sorted(nn.Module):
    """An island, which computes in the network's float16."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sort(1)[0] * torch.linspace(1, 2, 8)[:, None, None].to(x)


def test_an_island_of_a_float16_network(torch_rng):
    half = network_of(Sorted()).half()
    images = torch.rand(3, *SIZE, generator=torch_rng)
    exact = one_step(copy.deepcopy(half).double(), images.double(), "autograd")
    ours, eager = (
        float((one_step(half, images, backend) - exact).norm() / exact.norm())
        for backend in ("fused", "autograd")
    )
    assert ours <= 2 * eager < 0.1
    assert [each.operations for each in SignTransform(half).explain(images).islands] == [("sort",)]


def test_weights_that_change_are_followed_in_float16(torch_rng):
    half = network_of(nn.Identity()).half()
    images = torch.rand(2, *SIZE, generator=torch_rng)
    sign = SignTransform(half, 1, step_size=1.0, backend="fused")
    before = sign(images)
    with torch.no_grad():
        half[0].weight.mul_(1.5)
    exact = one_step(copy.deepcopy(half).double(), images.double(), "autograd")
    ours = (sign(images) - images).double()
    assert not torch.equal(before, sign(images))
    assert float((ours - exact).norm() / exact.norm()) < 1e-5
