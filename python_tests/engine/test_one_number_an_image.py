"""Values of one number an image, (N,): what makes them, computes with them and spreads them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sign_ext import SignTransform, pullback_of_ones

MADE = {
    "mean": lambda a: a.mean((1, 2, 3)),
    "selected": lambda a: a[:, 0, 1, 2],
    "maximum": lambda a: a.amax((1, 2, 3)),
    "of an island": lambda a: a.flatten(1).logcumsumexp(1)[:, 7],
}
CHANGED = {
    "smooth": lambda s, a: F.silu(s) + s.tanh(),
    "relu": lambda s, a: s.relu() - 0.3,
    "scaled": lambda s, a: (s * 0.5 + 1) * s,
    "divided": lambda s, a: s / (a[:, 0, 0, 0] ** 2 + 1),
    "detached": lambda s, a: s - s.detach() * 0.5,
    "where": lambda s, a: torch.where(s > 0, s, 0.1 * s).view(-1),
    "without a rule": lambda s, a: torch.atan2(s, a[:, 1, 0, 0] + 3),
    "stacked": lambda s, a: torch.stack([s, s * 2], 1).sum(1) ** 2,
}


class Network(nn.Module):
    """A convolution that a number of the image's scales, with the number beside it."""

    def __init__(self, made, changed) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(49, 2)
        self.scale = nn.Parameter(torch.randn(49))
        self.made, self.changed = made, changed

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x)
        s = self.changed(self.made(a), a)
        x = torch.cat([(a * s[:, None, None, None]).flatten(1), s[:, None]], 1)
        return self.head((x * self.scale).tanh())


@pytest.mark.parametrize("changed", CHANGED)
@pytest.mark.parametrize("made", MADE)
def test_delta_is_autograds(made, changed, torch_rng):
    torch.manual_seed(0)
    model = Network(MADE[made], CHANGED[changed]).double().eval().requires_grad_(False)
    sign = SignTransform(model, 1, step_size=1.0, backend="fused")
    images = torch.randn(3, 3, 3, 4, generator=torch_rng).double()
    wanted = pullback_of_ones(model, images)
    found = sign.transform(images) - images
    assert float((found - wanted).norm()) < 1e-12 * float(wanted.norm())
