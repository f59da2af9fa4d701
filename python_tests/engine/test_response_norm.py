"""Global response normalisation as one operation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sign_ext.compiler.build import compile_phi
from sign_ext.compiler.ir.response_norm import ResponseNorm
from sign_ext.engine.fused.step import Step
from sign_ext.source_layer import Phi, find_source_layer

WIDTH = 10


class Normed(nn.Module):
    """A convolution, the norm, and what comes after it; (N, C, H, W), or (N, H, W, C) inside."""

    def __init__(self, last: bool, after=torch.sin, shared: bool = False) -> None:
        super().__init__()
        self.last, self.after, self.shared = last, after, shared
        self.first = nn.Conv2d(3, WIDTH, 3, padding=1)
        shape = (WIDTH,) if last else (WIDTH, 1, 1)
        self.scale = nn.Parameter(torch.randn(shape))
        self.shift = nn.Parameter(torch.randn(shape))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = F.gelu(self.first(images))
        x = x.permute(0, 2, 3, 1) if self.last else x
        positions, channels = ((1, 2), -1) if self.last else ((2, 3), 1)
        norms = x.norm(p=2, dim=positions, keepdim=True)
        relative = norms / (norms.mean(channels, keepdim=True) + 1e-3)
        y = self.scale * (x * relative) + self.shift + x
        y = self.after(y) + (x * relative if self.shared else 0)
        return self.head(y.mean(positions))


CASES = {
    "channels last": (True, torch.sin),
    "channels first": (False, torch.sin),
    "gelu after": (False, F.gelu),
}


def checked(model: nn.Module, images: Tensor, found: int) -> tuple[object, Tensor]:
    phi = Phi(model, find_source_layer(model, images[:1]))
    program = compile_phi(phi, images[:1], strict=True)
    x = images.clone().requires_grad_()
    value = phi(x)
    (wanted,) = torch.autograd.grad(value, x, torch.ones_like(value))
    assert sum(isinstance(op, ResponseNorm) for op in program.ops) == found
    off = program.pullback_of_ones(images) - wanted
    assert float(off.norm()) < 1e-11 * float(wanted.norm())
    return program, wanted


@pytest.mark.parametrize("name", CASES)
def test_delta_is_autograds(name):
    torch.manual_seed(5)
    last, after = CASES[name]
    model = Normed(last, after).eval().requires_grad_(False).double()
    images = torch.randn(3, 3, 7, 9).double()
    program, wanted = checked(model, images, 1)
    for dtype, most in ((torch.float64, 1e-11), (torch.float32, 1e-5), (torch.bfloat16, 1e-1)):
        step = Step(program, dtype, images.device, len(images))
        single = images if dtype == torch.float64 else images.float()
        off = step.pullback_of_ones(single).double() - wanted
        assert float(off.norm()) < most * float(wanted.norm())


def test_a_product_that_is_read_again_stays_as_it_is():
    torch.manual_seed(6)
    model = Normed(False, shared=True).eval().requires_grad_(False).double()
    checked(model, torch.randn(2, 3, 5, 4).double(), 0)


def test_a_channel_of_zeros():
    """Its norm is 0, and so is what comes back through it, as PyTorch defines it."""
    torch.manual_seed(7)
    model = Normed(True).eval().requires_grad_(False).double()
    model.first.weight[3], model.first.bias[3] = 0, 0
    _, wanted = checked(model, torch.randn(2, 3, 5, 4).double(), 1)
    assert bool(wanted.isfinite().all())


def test_an_activation_after_it_keeps_its_bits():
    torch.manual_seed(8)
    model = Normed(False, F.relu).eval().requires_grad_(False).double()
    checked(model, torch.randn(2, 3, 5, 4).double(), 0)
