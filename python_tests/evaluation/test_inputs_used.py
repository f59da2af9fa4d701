"""Zero pre-activations against hooks, effective inputs against the gradient in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from sign_ext.evaluation import effective_inputs, zero_preactivations


class Functional(nn.Module):
    """ReLUs of all kinds, as functions; keeps what reaches them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 2)
        self.last = nn.Linear(4, 3)
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        a = self.first(images / 255)
        b = self.second(functional.relu(a))
        self.seen += [a.detach(), b.detach()]
        c = functional.relu6(b).mean(dim=(2, 3))
        self.seen.append((c - 0.1).detach())
        return self.last((c - 0.1).clamp_min(0))


def test_zero_preactivations_are_those_that_reach_the_relus(torch_rng):
    torch.manual_seed(3)
    model = Functional().train()
    images = torch.randint(0, 256, (7, 3, 9, 6), generator=torch_rng, dtype=torch.uint8)
    first, every = zero_preactivations(model, images, batch_size=7)
    a, b, c = (each.flatten(1) for each in model.seen)
    assert torch.allclose(first, (a <= 0).double().mean(dim=1))
    assert torch.allclose(every, (torch.cat([a, b, c], dim=1) <= 0).double().mean(dim=1))
    assert model.training
    in_parts = zero_preactivations(model, images, batch_size=3)
    assert torch.allclose(in_parts[1], every)


def test_inplace_relus_are_counted_before_they_overwrite(torch_rng):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))
    images = torch.rand(5, 3, 2, 2, generator=torch_rng) * 255
    first, every = zero_preactivations(model, images)
    before = model[1](images.flatten(1))
    assert torch.equal(first, (before <= 0).double().mean(dim=1))
    assert torch.equal(first, every)


def test_a_network_without_relus_is_refused():
    with pytest.raises(ValueError, match="no ReLU"):
        zero_preactivations(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.zeros(1, 1, 2, 2))
    with pytest.raises(ValueError, match="empty"):
        zero_preactivations(nn.ReLU(), torch.zeros(0, 1, 2, 2))


def test_effective_inputs_are_the_participation_ratio_of_the_gradient(torch_rng):
    torch.manual_seed(4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(27, 9), nn.Tanh(), nn.Linear(9, 4))
    images = torch.rand(6, 3, 3, 3, generator=torch_rng)
    found = effective_inputs(model, images, batch_size=4)
    exact = model.double()
    for image, number in zip(images.double(), found, strict=True):
        x = image[None].clone().requires_grad_()
        logits = exact(x)
        logits[0, logits.argmax()].backward()
        mass = x.grad.abs().flatten()
        mass = mass / mass.sum()
        assert float(number) == pytest.approx(1 / float(mass.square().sum()), rel=1e-4)


def test_without_a_gradient_no_input_is_used():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    nn.init.zeros_(model[1].weight)
    assert effective_inputs(model, torch.ones(3, 1, 2, 2)).tolist() == [0.0, 0.0, 0.0]
