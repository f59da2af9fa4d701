"""The twenty networks that the engine is measured on, at tiny sizes, against a loop in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from families import some_slow
from networks import step_for, unsettled
from torch import Tensor, nn
from twenty import COARSE, QUICK_TWENTY, TWENTY, classifier_of

from sign_ext import SignTransform

STEPS = 2


def made(name: str, count: int) -> tuple[nn.Module, Tensor]:
    """A network with uneven statistics and scales, and images."""
    torch.manual_seed(7)
    generator = torch.Generator().manual_seed(7)
    model = unsettled(TWENTY[name][0]().eval().requires_grad_(False), generator)
    return model, torch.rand(count, 3, *TWENTY[name][1], generator=generator)


def naive_delta(model: nn.Module, p: Tensor) -> Tensor:
    """Σ ∂Φ/∂p, Φ being what the classifier reads."""
    found: list[Tensor] = []
    hook = classifier_of(model).register_forward_pre_hook(lambda _, given: found.append(given[0]))
    x = p.clone().requires_grad_()
    try:
        model(x)
        (delta,) = torch.autograd.grad(found[0].sum(), x)
    finally:
        hook.remove()
    return delta


def off(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize("name", some_slow(TWENTY, QUICK_TWENTY))
def test_a_network_of_the_twenty_walks_as_in_a_naive_loop(name: str) -> None:
    exact, images = made(name, 3)
    exact, images = exact.double(), images.double()
    before = copy.deepcopy(exact.state_dict())
    deltas = [naive_delta(exact, images)]
    size = float(deltas[0].norm())
    assert size > 1e-6, "nothing of the images reaches Φ"
    step_size = step_for(deltas[0], 0.05)
    wanted = images
    for k in range(STEPS):
        wanted = wanted + step_size * (deltas[0] if k == 0 else naive_delta(exact, wanted))
    sign = SignTransform(exact, STEPS, step_size=step_size, backend="fused", batch_size=2)
    got = sign.transform(images)  # two images and one
    most = 1e-6 if name in COARSE else 1e-9
    assert off(got - images, wanted - images) <= most
    assert off(sign.step(images[:2]).pullback_of_ones(images[:2]), deltas[0][:2]) <= most
    assert all(
        torch.equal(a, b) for a, b in zip(exact.state_dict().values(), before.values(), strict=True)
    )
    assert sum(island.share for island in sign.explain(images).islands) <= 1 + 1e-9


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) for n in TWENTY])
def test_a_network_of_the_twenty_is_as_exact_as_eager_in_float32(name: str) -> None:
    """The median of three images: rounding decides the sign of a pre-activation in some."""
    model, images = made(name, 3)
    exact = copy.deepcopy(model).double()
    step = SignTransform(model, 1, backend="fused").step(images)
    ours, eager = [], []
    for wanted, mine, theirs in zip(
        naive_delta(exact, images.double()),
        step.pullback_of_ones(images),
        naive_delta(model, images),
        strict=True,
    ):
        ours.append(off(mine, wanted))
        eager.append(off(theirs, wanted))
    assert sorted(ours)[1] <= max(1e-4, 5 * sorted(eager)[1]), f"{ours}, eager {eager}"
    assert max(ours) < 0.5
