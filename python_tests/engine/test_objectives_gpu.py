"""Adversarial steps and gradients on a GPU: recorded, replayed with other labels, as autograd."""

from __future__ import annotations

import pytest
import torch
from networks import basic_cnn, lively, tiny_cnn
from op_examples import example
from tensors import pixels
from torch import Tensor, nn
from torch.nn import functional as F

from sign_ext import InputIteration, integrated_gradients, pgd, smoothgrad

pytestmark = pytest.mark.gpu
BACKENDS = ["graphed", "fused"]


def loss(output: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(output, labels, reduction="none")


@pytest.fixture
def model(torch_rng: torch.Generator) -> nn.Module:
    torch.manual_seed(2)
    return lively(tiny_cnn(4), torch_rng).cuda().eval()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("objective", ["cross_entropy", "margin", "logit", loss])
@pytest.mark.parametrize(
    "options",
    [
        {"update": "sign", "step_size": 1.0, "project": ("linf", 3.0), "clamp": (0, 255)},
        {"update": "l2", "step_size": 9.0, "project": ("l2", 12.0), "momentum": 0.5},
        {"update": "gradient", "step_size": 9e4},
    ],
    ids=lambda options: options["update"],
)
def test_recorded_steps_are_eagers_for_every_call(
    backend, objective, options, model, torch_rng
) -> None:
    recorded, eager = (
        InputIteration(model, 4, objective=objective, backend=each, **options)
        for each in (backend, "autograd")
    )
    for count in (5, 5, 3, 5):
        images = pixels(torch_rng, (count, 3, 9, 11), "cuda")
        labels = torch.randint(0, 4, (count,), generator=torch_rng).cuda()
        start = images + 1.5
        found = recorded.transform(images, labels, start=start)
        wanted = eager.transform(images, labels, start=start)
        moved = (wanted - images).norm()
        assert moved > 1
        if options["update"] == "sign":  # rounding may turn the sign of a gradient next to zero
            assert ((found - wanted).abs() > 1e-3).double().mean() < 0.02
        else:
            assert (found - wanted).norm() < 2e-2 * moved
        gradients = [each.gradients(images, labels) for each in (recorded, eager)]
        assert (gradients[0] - gradients[1]).norm() < 2e-2 * gradients[1].norm()
    assert recorded.explain(images).backend == backend


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["linear_attention", "attention", "bilinear"])
def test_islands_and_tokens(name: str, backend: str) -> None:
    model, images = example(name)
    model, images = model.cuda(), images.cuda()
    labels = torch.tensor([2, 0, 1, 1, 2], device="cuda")
    found, wanted = (
        InputIteration(model, objective="cross_entropy", backend=each).gradients(images, labels)
        for each in (backend, "autograd")
    )
    assert (found - wanted).norm() < 1e-2 * wanted.norm()


@pytest.mark.parametrize("backend", BACKENDS)
def test_attacks_and_attributions(backend: str, torch_rng: torch.Generator) -> None:
    torch.manual_seed(2)
    model = basic_cnn(8, 12, 6).cuda().eval()
    images = pixels(torch_rng, (37, 3, 8, 12), "cuda")
    labels = model(images).argmax(1)
    ends = [
        pgd(
            model, images, labels, epsilon=8, step_size=2, steps=10, restarts=2, backend=each,
            batch_size=16,
        )
        for each in (backend, "autograd")
    ]  # fmt: skip
    assert all((end - images).abs().max() <= 8 + 1e-4 for end in ends)
    losses = [loss(model(end), labels).detach() for end in ends]
    assert (losses[0] > loss(model(images), labels)).float().mean() > 0.9
    assert float(losses[0].mean()) == pytest.approx(float(losses[1].mean()), rel=0.02)
    options = {"batch_size": 100}
    for function, more in ((integrated_gradients, {"steps": 9}), (smoothgrad, {"sigma": 9.0})):
        found, wanted = (
            function(model, images, labels, backend=each, **options, **more)
            for each in (backend, "autograd")
        )
        assert (found - wanted).norm() < 2e-2 * wanted.norm()
