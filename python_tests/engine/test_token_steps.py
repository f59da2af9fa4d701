"""Compiled steps of networks of tokens at each precision, against float64 autograd."""

from __future__ import annotations

import pytest
import step_checks
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sign_ext.compiler.build import compile_phi
from sign_ext.compiler.ir.island import Island
from sign_ext.source_layer import Phi, find_source_layer

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


class Block(nn.Module):
    """A norm, a gated product with a scale for each channel, shifted windows of 2×2 positions."""

    def __init__(self, width: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.norm, self.other = nn.LayerNorm(width), nn.RMSNorm(width, eps=1e-5)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(2 * width, width)
        self.mix, self.gamma = nn.Linear(width, width), nn.Parameter(torch.rand(width))
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.up(self.norm(x)).chunk(2, -1)
        x = x + self.gamma * self.down(F.silu(a) * b)
        n, _, f = x.shape
        h, w = self.size
        y = torch.roll(self.other(x[:, 1:]).view(n, h, w, f), (-1, -1), (1, 2))
        y = y.view(n, h // 2, 2, w // 2, 2, f).transpose(2, 3).reshape(-1, 4, f)
        y = F.gelu(self.mix(y)).view(n, h // 2, w // 2, 2, 2, f).transpose(2, 3).reshape(n, h, w, f)
        y = torch.roll(y, (1, 1), (1, 2)).flatten(1, 2)
        return torch.cat([x[:, :1], x[:, 1:] + y], 1)


class Tokens(nn.Module):
    """Patches, a class token, two blocks; the class token or the mean at the end."""

    def __init__(self, pooled: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 3, 3)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.blocks = nn.Sequential(Block(12, (4, 6)), Block(12, (4, 6)))
        self.norm, self.classifier, self.pooled = nn.LayerNorm(12), nn.Linear(12, 3), pooled
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.blocks(torch.cat([self.token.expand(len(x), -1, -1), x], 1))
        x = F.gelu(self.norm(x))
        return self.classifier(x[:, 1:].mean(1) if self.pooled else x[:, 0])


def case(pooled: bool, count: int, device: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(5)
    model = Tokens(pooled).eval().requires_grad_(False).to(device)
    return model, torch.randn(count, 3, 12, 18).to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("pooled", [False, True])
def test_each_precision(pooled, count, precision, device):
    step_checks.check(*case(pooled, count, device), precision)


@pytest.mark.parametrize("pooled", [False, True])
def test_float64_is_exact_and_nothing_is_an_island(pooled):
    model, images = case(pooled, 3, "cpu")
    ours, _ = step_checks.errors(model.double(), images.double())
    assert ours < 1e-12
    phi = Phi(model, find_source_layer(model, images[:1].double()))
    program = compile_phi(phi, images[:1].double())
    assert not any(isinstance(op, Island) for op in program.ops)
