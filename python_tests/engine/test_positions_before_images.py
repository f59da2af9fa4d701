"""Tokens that the network merges with the images after them: (T · N, F), as PyTorch's attention.

Nothing is copied or becomes an island on account of that, and any number of images works.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sign_ext import SignTransform, pullback_of_ones

TOKENS, FEATURES = 5, 6
_generator = torch.Generator().manual_seed(0)
WEIGHT = torch.randn(7, FEATURES, generator=_generator).double()
PLACES = torch.randn(TOKENS, FEATURES, generator=_generator).double()


def perceptron(rows: Tensor, n: int) -> Tensor:
    return F.gelu(F.linear(rows, WEIGHT)) + rows[:, :1]


def positions(rows: Tensor, n: int) -> Tensor:
    return rows * PLACES.unsqueeze(1).expand(-1, n, -1).reshape(-1, FEATURES) + rows.softmax(-1)


def joined(rows: Tensor, n: int) -> Tensor:
    return F.layer_norm(torch.cat([rows[:, :2], rows.sin()], -1), (8,))


def without_a_rule(rows: Tensor, n: int) -> Tensor:
    return F.layer_norm(rows.logcumsumexp(-1).tanh(), (FEATURES,))


def products(rows: Tensor, n: int) -> Tensor:
    heads = rows.unflatten(-1, (2, 3))
    return ((heads @ heads.mT).softmax(-1) @ heads).flatten(1)


def statistics(rows: Tensor, n: int) -> Tensor:
    centred = rows - rows.mean(-1, keepdim=True)
    return centred / (1 + centred.amax(-1, keepdim=True).abs())


def padded(rows: Tensor, n: int) -> Tensor:
    return F.pad(rows, (1, 2)).sin()


CASES = {
    perceptron: (),
    positions: ("add", "mul"),
    joined: (),
    without_a_rule: ("logcumsumexp", "tanh"),
    products: (),
    statistics: (),
    padded: (),
}


class Network(nn.Module):
    """Patches as tokens, a function of (T · N, F), and a head."""

    def __init__(self, function: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, FEATURES, (4, 1), (4, 1))
        self.function = function
        features = TOKENS * function(torch.zeros(2 * TOKENS, FEATURES).double(), 2).shape[-1]
        self.scale = nn.Parameter(torch.randn(features))
        self.head = nn.Linear(features, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).permute(2, 0, 1)
        n = x.shape[1]
        x = self.function(x.reshape(-1, FEATURES), n).view(TOKENS, n, -1).transpose(0, 1)
        return self.head((x.flatten(1) * self.scale).tanh())


@pytest.mark.parametrize("function", CASES, ids=lambda f: f.__name__)
def test_delta_is_autograds_for_any_number_of_images(function, torch_rng):
    model = Network(function).double().eval().requires_grad_(False)
    sign = SignTransform(model, 1, step_size=1.0, backend="fused")
    for count in (1, 2, TOKENS, 3):
        images = torch.randn(count, 3, 4, TOKENS, generator=torch_rng).double()
        wanted = pullback_of_ones(model, images)
        found = sign.transform(images) - images
        assert float((found - wanted).norm()) < 1e-12 * float(wanted.norm())
    operations = [each.operations for each in sign.explain(images).islands]
    assert {name for each in operations for name in each} <= {*CASES[function], "layer_norm"}
    assert bool(operations) == bool(CASES[function])
