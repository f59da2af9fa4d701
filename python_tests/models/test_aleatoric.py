"""The aleatoric model against Eq. 10 and 11, integrated numerically and written out in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sign_ext import iterative_sign
from sign_ext.models import (
    AleatoricHead,
    AleatoricOutput,
    aleatoric_loss,
    build_model,
    sample_logits,
)
from sign_ext.source_layer import find_source_layer


def output_of(
    rng: np.random.Generator, count: int, classes: int, spread: float = 2.0
) -> AleatoricOutput:
    return AleatoricOutput(
        torch.from_numpy(rng.normal(size=(count, classes)) * 3),
        torch.from_numpy(rng.uniform(0.1, spread, (count, classes))),
    )


def two_class_expectation(f: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """E[softmax_0] of two classes: a sigmoid of one normal number, by Gauss–Hermite."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(201)
    mean, deviation = f[:, 0] - f[:, 1], np.hypot(sigma[:, 0], sigma[:, 1])
    values = 1 / (1 + np.exp(-(mean[:, None] + deviation[:, None] * nodes)))
    return values @ weights / math.sqrt(2 * math.pi)


def test_equation_10_is_the_integral_for_two_classes(rng: np.random.Generator) -> None:
    samples = 200_000
    output = output_of(rng, 7, 2)
    labels = torch.from_numpy(rng.integers(0, 2, 7))
    p = two_class_expectation(output.logits.numpy(), output.sigma.numpy())
    p = np.where(labels.numpy() == 0, p, 1 - p)
    found = float(aleatoric_loss(output, labels, samples))
    # Each softmax lies in 0–1, so a mean of T has a standard error below 1/(2√T).
    error = 5 * np.mean(1 / p) / (2 * math.sqrt(samples))
    assert abs(found + np.log(p).mean()) < error


def test_equations_10_and_11_in_numpy(rng: np.random.Generator) -> None:
    output, targets = output_of(rng, 5, 3), torch.tensor([0, 2, 1, 1, 2])
    soft = torch.from_numpy(rng.dirichlet(np.ones(3), 5))
    torch.manual_seed(11)
    noise = torch.randn(13, 5, 3, dtype=torch.float64).numpy()
    x = output.logits.numpy() + output.sigma.numpy() * noise
    p = (np.exp(x) / np.exp(x).sum(axis=2, keepdims=True)).mean(axis=0)
    hard = -np.log(p[np.arange(5), targets.numpy()]).mean()
    mixed = -(soft.numpy() * np.log(p)).sum(axis=1).mean()
    for labels, expected in ((targets, hard), (soft, mixed), (soft.float(), mixed)):
        torch.manual_seed(11)
        assert float(aleatoric_loss(output, labels, 13)) == pytest.approx(expected, rel=1e-6)


def test_drawn_logits_have_their_mean_and_spread(
    rng: np.random.Generator, torch_rng: torch.Generator
) -> None:
    output, samples = output_of(rng, 3, 5), 40_000
    drawn = sample_logits(output, samples, torch_rng)
    assert drawn.shape == (samples, 3, 5)
    noise = (drawn - output.logits) / output.sigma
    assert float(noise.mean(dim=0).abs().max()) < 5 / math.sqrt(samples)
    assert float((noise.std(dim=0) - 1).abs().max()) < 5 / math.sqrt(2 * samples)
    flat = noise.flatten(1).T  # noise of different images and classes is independent
    correlation = torch.corrcoef(flat) - torch.eye(15, dtype=torch.float64)
    assert float(correlation.abs().max()) < 5 / math.sqrt(samples)
    # The generator alone decides.
    state = torch_rng.get_state()
    first = sample_logits(output, 4, torch_rng)
    torch_rng.set_state(state)
    assert torch.equal(sample_logits(output, 4, torch_rng), first)


def test_without_spread_it_is_cross_entropy(rng: np.random.Generator) -> None:
    logits = torch.from_numpy(rng.normal(size=(9, 4))).requires_grad_()
    labels = torch.from_numpy(rng.integers(0, 4, 9))
    soft = torch.from_numpy(rng.dirichlet(np.ones(4), 9))
    for targets in (labels, soft):
        expected = F.cross_entropy(logits, targets)
        (wanted,) = torch.autograd.grad(expected, logits)
        found = aleatoric_loss(AleatoricOutput(logits, torch.full_like(logits, 1e-9)), targets, 3)
        (gradient,) = torch.autograd.grad(found, logits)
        assert found.item() == pytest.approx(expected.item(), rel=1e-7)
        np.testing.assert_allclose(gradient.numpy(), wanted.numpy(), rtol=1e-6, atol=1e-8)


def test_one_hot_probabilities_are_classes(rng: np.random.Generator) -> None:
    output, labels = output_of(rng, 6, 4), torch.tensor([3, 0, 1, 1, 2, 3])
    losses = []
    for targets in (labels, F.one_hot(labels, 4).float()):
        torch.manual_seed(5)
        losses.append(float(aleatoric_loss(output, targets, 7)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e4, 1e30])
@pytest.mark.parametrize("spread", [-1e4, -100.0, 0.0, 100.0, 1e4])
def test_gradients_are_finite_at_extreme_logits(scale: float, spread: float) -> None:
    values = torch.tensor([[scale, -scale, 0.0], [0.0, scale, scale]])
    outputs = torch.cat([values, torch.full((2, 3), spread)], dim=1).requires_grad_()
    for targets in (torch.tensor([1, 0]), torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])):
        loss = aleatoric_loss(AleatoricHead()(outputs), targets, 10)
        (gradient,) = torch.autograd.grad(loss, outputs)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


def test_the_head_splits(rng: np.random.Generator) -> None:
    outputs = rng.normal(size=(3, 10)) * 5
    found = AleatoricHead()(torch.from_numpy(outputs))
    np.testing.assert_array_equal(found.logits.numpy(), outputs[:, :5])
    np.testing.assert_allclose(found.sigma.numpy(), np.log1p(np.exp(outputs[:, 5:])), rtol=1e-12)
    for shape in ((3, 5), (3, 4, 2)):
        with pytest.raises(ValueError, match=r"accepted: \(N, 2·C\).*aleatoric=True"):
            AleatoricHead()(torch.zeros(shape))


@pytest.mark.parametrize("name", ["basic_cnn", "mobilenet_v2", "nasnet_mobile"])
def test_any_model_can_be_aleatoric(name: str, torch_rng: torch.Generator) -> None:
    model = build_model(name, num_classes=3, image_shape=(3, 33, 35), aleatoric=True).eval()
    assert list(dict(model.named_children())) == ["normalize", "network", "head"]
    linear = [each for each in model.modules() if isinstance(each, nn.Linear)][-1]
    assert linear.out_features == 6
    images = torch.rand(2, 3, 33, 35, generator=torch_rng) * 255
    found = model(images)
    assert found.logits.shape == found.sigma.shape == (2, 3)
    assert (found.sigma > 0).all()
    # Both heads read the same features, so SIGN's Φ is the plain model's.
    source = find_source_layer(model.requires_grad_(False), images)
    assert model.get_submodule(source.name) is linear


def test_sign_moves_images_as_with_the_plain_model(torch_rng: torch.Generator) -> None:
    model = build_model("basic_cnn", image_shape=(3, 12, 9), num_classes=3, aleatoric=True).eval()
    plain = nn.Sequential(model.normalize, model.network)
    images = torch.rand(2, 3, 12, 9, generator=torch_rng) * 255
    found = iterative_sign(model, images, 2, step_size=100.0)
    assert not torch.equal(found, images)
    assert torch.equal(found, iterative_sign(plain, images, 2, step_size=100.0))


def test_wrong_arguments_are_refused() -> None:
    output = AleatoricOutput(torch.zeros(2, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match="samples=0"):
        sample_logits(output, 0)
    for shape in ((3,), (2, 2), (2, 3, 1)):
        with pytest.raises(ValueError, match=r"targets .*accepted: \(2,\)"):
            aleatoric_loss(output, torch.zeros(shape))
