"""Integrated gradients and SmoothGrad against plain sums in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import lively, tiny_cnn
from tensors import pixels
from torch import Tensor, nn

from sign_ext import InputIteration, integrated_gradients, pgd, smoothgrad

CLASSES = 4
BACKENDS = ("autograd", "fused")


@pytest.fixture
def model(torch_rng) -> nn.Sequential:
    torch.manual_seed(3)
    return lively(tiny_cnn(CLASSES), torch_rng).eval().double()


@pytest.fixture
def images(torch_rng) -> Tensor:
    return pixels(torch_rng, (3, 3, 9, 11)).double()


LABELS = torch.tensor([2, 0, 3])


def gradient(model: nn.Module, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (found,) = torch.autograd.grad(model(x)[range(len(x)), LABELS[: len(x)]].sum(), x)
    return found


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch_size", [None, 1, 4, 100])
def test_the_path_is_summed_as_in_the_paper(model, images, backend, batch_size):
    """Equation 3 of Sundararajan et al.: the right ends of m intervals."""
    base, count = 31.0, 5
    total = torch.zeros_like(images)
    for j in range(1, count + 1):
        total += gradient(model, base + (images - base) * j / count) / count
    found = integrated_gradients(
        model,
        images,
        LABELS,
        baseline=base,
        steps=count,
        quadrature="right",
        backend=backend,
        batch_size=batch_size,
    )
    torch.testing.assert_close(found, (images - base) * total, rtol=1e-9, atol=1e-12)


# Points and weights of a rule on [0, 1], from its definition.
ROOT = (3 / 5) ** 0.5 / 2
RULES = {
    "gauss_legendre": [(0.5 - ROOT, 5 / 18), (0.5, 8 / 18), (0.5 + ROOT, 5 / 18)],
    "midpoint": [(1 / 6, 1 / 3), (3 / 6, 1 / 3), (5 / 6, 1 / 3)],
    "right": [(1 / 3, 1 / 3), (2 / 3, 1 / 3), (1.0, 1 / 3)],
    "trapezoid": [(0.0, 1 / 4), (0.5, 1 / 2), (1.0, 1 / 4)],
}


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_has_its_points_and_weights(model, images, rule):
    base = torch.rand(3, 9, 11, generator=torch.Generator().manual_seed(1)).double() * 255
    total = sum(
        w * gradient(model, torch.lerp(base.expand_as(images), images, a)) for a, w in RULES[rule]
    )
    found = integrated_gradients(model, images, LABELS, baseline=base, steps=3, quadrature=rule)
    torch.testing.assert_close(found, (images - base) * total, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_attributions_sum_to_the_difference(model, images, backend):
    found = integrated_gradients(
        model.float(), images.float(), LABELS, steps=300, quadrature="midpoint", backend=backend
    )
    assert found.dtype == torch.float32
    with torch.no_grad():
        ends = [model(x.float())[range(3), LABELS] for x in (images, torch.zeros_like(images))]
    torch.testing.assert_close(found.sum((1, 2, 3)), ends[0] - ends[1], rtol=0.02, atol=1e-3)


def test_other_objectives(model, images):
    found = integrated_gradients(model, images, objective=lambda z: z.square().sum(1), steps=4)
    total = torch.zeros_like(images)
    nodes = [(0.0694318442, 0.1739274226), (0.3300094782, 0.3260725774)]
    nodes += [(1 - a, w) for a, w in nodes]  # of Gauss and Legendre, four points
    for alpha, weight in nodes:
        x = (images * alpha).requires_grad_()
        total += weight * torch.autograd.grad(model(x).square().sum(), x)[0]
    torch.testing.assert_close(found, images * total, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_smoothgrad_is_the_mean_at_noisy_copies(model, images, backend):
    sigma, count = 20.0, 4
    indices = torch.tensor([2, 0, 77])
    wanted = torch.zeros_like(images)
    for i in range(len(images)):
        for copy in range(count):
            words = np.random.SeedSequence((7, copy, int(indices[i]))).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(words[0]) >> 1)
            noise = torch.empty(images.shape[1:]).normal_(generator=generator)
            x = (images[i : i + 1] + sigma * noise).requires_grad_()
            wanted[i] += torch.autograd.grad(model(x)[0, LABELS[i]], x)[0][0] / count
    for batch_size, rows in ((None, [0, 1, 2]), (5, [2, 0]), (1, [1])):
        found = smoothgrad(
            model,
            images[rows],
            LABELS[rows],
            sigma=sigma,
            samples=count,
            seed=7,
            indices=indices[rows],
            backend=backend,
            batch_size=batch_size,
        )
        torch.testing.assert_close(found, wanted[rows], rtol=1e-9, atol=1e-12)
    seed = int(torch.randint(2**63 - 1, (), generator=torch.Generator().manual_seed(7)))
    drawn = torch.Generator().manual_seed(7)
    again = smoothgrad(model, images, LABELS, sigma=sigma, samples=count, generator=drawn)
    plain = smoothgrad(model, images, LABELS, sigma=sigma, samples=count, seed=seed)
    assert torch.equal(again, plain)
    other = smoothgrad(model, images, LABELS, sigma=sigma, samples=count, seed=8)
    assert not torch.allclose(other, wanted)


def test_further_inputs_and_progress(images):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = tiny_cnn(CLASSES)

        def forward(self, x: Tensor, factor: Tensor) -> Tensor:
            return self.body(x) * factor[:, None]

    torch.manual_seed(4)
    model, seen = Scaled().eval().double(), []
    factor = torch.tensor([1.0, -2.0, 3.0]).double()
    options = {"steps": 6, "batch_size": 4}
    found = integrated_gradients(
        model,
        images,
        LABELS,
        model_kwargs={"factor": factor},
        progress=lambda done, total: seen.append((done, total)),
        **options,
    )
    plain = integrated_gradients(model.body, images, LABELS, **options)
    torch.testing.assert_close(found, plain * factor[:, None, None, None], rtol=1e-9, atol=1e-12)
    assert seen == [(done, 18) for done in (4, 8, 12, 16, 18)]


def test_no_images_have_no_attributions(model):
    none = torch.zeros(0, 3, 9, 11).double()
    labels = torch.zeros(0).long()
    assert integrated_gradients(model, none, labels).shape == none.shape
    assert smoothgrad(model, none, labels, sigma=1.0).shape == none.shape


def test_all_of_them_in_inference_mode(model, images):
    """The caller's tensors, and the results, may be inference tensors."""

    def loss(output: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, labels, reduction="none")

    calls = [
        lambda x, y: pgd(
            model, x, y, epsilon=8, step_size=2, steps=2, restarts=2, only_correct=True
        ),
        lambda x, y: pgd(model, x, y, epsilon=8, step_size=2, steps=2, objective=loss),
        lambda x, y: integrated_gradients(model, x, y, steps=3),
        lambda x, y: smoothgrad(model, x, y, sigma=9.0, samples=3),
        lambda x, y: InputIteration(model, objective="margin").gradients(x, y),
        lambda x, y: InputIteration(model, objective=loss).gradients(x, y),
    ]
    for call in calls:
        wanted = call(images, LABELS)
        with torch.inference_mode():
            found = call(images.clone(), LABELS.clone().int().long())
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


CASES = [
    (integrated_gradients, {"steps": 0}, ValueError, "steps must be at least 1"),
    (integrated_gradients, {"steps": 2.0}, TypeError, "steps must be an integer"),
    (integrated_gradients, {"quadrature": "left"}, ValueError, "quadrature must be one of gauss"),
    (integrated_gradients, {"quadrature": "trapezoid", "steps": 1}, ValueError, "2 steps"),
    (integrated_gradients, {"baseline": "black"}, TypeError, "baseline must be a number"),
    (integrated_gradients, {"baseline": float("nan")}, ValueError, "finite"),
    (integrated_gradients, {"baseline": torch.zeros(3, 9, 12)}, ValueError, "does not spread"),
    (integrated_gradients, {"baseline": torch.zeros(2, 3, 3, 9, 11)}, ValueError, "not spread"),
    (integrated_gradients, {"labels": None}, ValueError, "needs labels"),
    (integrated_gradients, {"labels": LABELS + 2}, ValueError, "classes 0 to 3"),
    (smoothgrad, {"sigma": 0}, ValueError, "sigma must be above 0"),
    (smoothgrad, {"sigma": None}, TypeError, "sigma must be a number"),
    (smoothgrad, {"sigma": 1, "samples": 0}, ValueError, "samples must be at least 1"),
    (smoothgrad, {"sigma": 1, "indices": torch.arange(2)}, ValueError, "indices must have shape"),
    (smoothgrad, {"sigma": 1, "generator": 1}, TypeError, "torch.Generator"),
    (smoothgrad, {"sigma": 1, "labels": LABELS.float()}, TypeError, "integers"),
]


@pytest.mark.parametrize(("function", "options", "kind", "message"), CASES, ids=range(len(CASES)))
def test_errors_name_the_argument(model, images, function, options, kind, message):
    with pytest.raises(kind, match=message):
        function(model, images, **{"labels": LABELS, **options})
