"""Networks whose weights are bfloat16, and the parts that they compute in float32."""

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


@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_weights(name, torch_rng):
    """As near to float64 as autograd in bfloat16 comes, and nothing of it an island.

    The activations are smooth: which signs rounding decides would be chance.
    """
    torch.manual_seed(9)
    model = NETWORKS[name]()
    images = torch.rand(4, *SIZE, generator=torch_rng)
    exact = one_step(copy.deepcopy(model).double(), images.double(), "autograd")
    half = model.to(torch.bfloat16)
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


def test_float16_is_refused_by_name():
    images = torch.rand(1, *SIZE)
    model = network_of(nn.Identity()).half()
    with pytest.raises(UnsupportedOperation, match="networks in float16; those in float32"):
        SignTransform(model, backend="fused")(images)
