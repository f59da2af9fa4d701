"""Weights that a network computes from its weights alone: constants of the program."""

from __future__ import annotations

import pytest
import torch
from networks import lively
from torch import nn
from torch.nn.utils import parametrizations

from sign_ext.compiler.build import compile_phi
from sign_ext.eval_state import computing
from sign_ext.source_layer import Phi, find_source_layer

timm = pytest.importorskip("timm")
layers = pytest.importorskip("timm.layers")


def check(model: nn.Module, size: tuple[int, int], generator: torch.Generator) -> list[str]:
    """δ in float64 against autograd; the operations of the strict program."""
    model = lively(model, generator).double().eval().requires_grad_(False)
    images = torch.rand(2, 3, *size, generator=generator).double()
    with computing(model):
        phi = Phi(model, find_source_layer(model, images[:1]))
        program = compile_phi(phi, images[:1], strict=True)
        x = images.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(phi(x).sum(), x)
    torch.testing.assert_close(program.pullback_of_ones(images), wanted, rtol=1e-7, atol=1e-10)
    return [op.kind for op in program.ops]


def small(conv: nn.Module) -> nn.Module:
    """One such convolution, an activation, a classifier."""
    tail = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)]
    return nn.Sequential(nn.Conv2d(3, 4, 3), conv, *tail)


CONVOLUTIONS = {
    "StdConv2d": lambda: layers.StdConv2d(4, 6, 3),
    "StdConv2dSame": lambda: layers.StdConv2dSame(4, 6, 3, 2),
    "ScaledStdConv2d": lambda: layers.ScaledStdConv2d(4, 6, 3),
    "ScaledStdConv2dSame": lambda: layers.ScaledStdConv2dSame(4, 6, 3, 2),
    "weight norm": lambda: parametrizations.weight_norm(nn.Conv2d(4, 6, 3)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Conv2d(4, 6, 3)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_weight_is_a_constant(name, torch_rng):
    """Both convolutions are one, or one and its ReLU: nothing standardises while it runs."""
    kinds = check(small(CONVOLUTIONS[name]()), (11, 9), torch_rng)
    assert kinds == ["convolution", "convolution"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nf_resnet26", "resnetv2_50x1_bit"])
def test_networks_of_timm(name, torch_rng):
    kinds = check(timm.create_model(name), (37, 35), torch_rng)
    assert set(kinds) <= {
        "convolution",
        "pointwise",
        "max_pool",
        "average_pool",
        "group_norm",
        "pad",
    }
