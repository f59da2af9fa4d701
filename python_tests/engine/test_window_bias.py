"""Attention with a bias of its own for each window, in batches of any size."""

from __future__ import annotations

import pytest
import torch
from op_examples import CHANNELS
from torch import Tensor, nn
from torch.nn import functional as F

from sign_ext.compiler.build import compile_phi
from sign_ext.compiler.ir.attention import Attention
from sign_ext.engine.fused.bind.attention import OnCpu
from sign_ext.engine.fused.step import Step
from sign_ext.engine.fused.tuning_plan import StepChoices
from sign_ext.source_layer import Phi, find_source_layer

WINDOWS, HEADS, LENGTH = 3, 2, 8


class Windows(nn.Module):
    """An image of 4×6 positions in three windows of 4×2, each with its own bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, CHANNELS, 2, 2)
        self.qkv, self.last = nn.Linear(CHANNELS, 3 * CHANNELS), nn.Linear(CHANNELS, CHANNELS)
        self.bias = nn.Parameter(torch.randn(WINDOWS, HEADS, LENGTH, LENGTH))
        self.head = nn.Linear(CHANNELS, 2)

    def forward(self, images: Tensor) -> Tensor:
        n = len(images)
        x = self.first(images).view(n, CHANNELS, 4, WINDOWS, 2).permute(0, 3, 2, 4, 1)
        x = x.reshape(n * WINDOWS, LENGTH, CHANNELS)
        split = self.qkv(x).unflatten(2, (3, HEADS, CHANNELS // HEADS))
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.bias.repeat(n, 1, 1, 1)
        y = F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2)
        return self.head(self.last(y).sin().view(n, -1, CHANNELS).mean(1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_batches_of_other_sizes_than_was_prepared_for(dtype):
    torch.manual_seed(2)
    model = Windows().eval().requires_grad_(False).double()
    images = torch.randn(5, 3, 8, 12).double()
    phi = Phi(model, find_source_layer(model, images[:1]))
    program = compile_phi(phi, images[:1], strict=True)
    x = images.clone().requires_grad_()
    value = phi(x)
    (wanted,) = torch.autograd.grad(value, x, torch.ones_like(value))
    step = Step(program, dtype, images.device, 2, StepChoices(2))
    (place,) = (i for i, op in enumerate(program.ops) if isinstance(op, Attention))
    assert isinstance(step.prepared[place], OnCpu)
    for count in (1, 2, 5):
        got = step.pullback_of_ones(images[:count].to(dtype)).double()
        off = float((got - wanted[:count]).norm())
        assert off < (1e-11 if dtype == torch.float64 else 1e-5) * float(wanted[:count].norm())
