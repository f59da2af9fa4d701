"""Uncertainty and calibration against their definitions in numpy."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sign_ext.evaluation import (
    LowConfidenceRow,
    low_confidence,
    predict_aleatoric,
)
from sign_ext.models import AleatoricHead, AleatoricOutput, build_model


@pytest.fixture
def model(rng: np.random.Generator) -> nn.Sequential:
    """An aleatoric model whose outputs are the same bits in batches of any size."""

    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            weight = rng.integers(-3, 4, (75, 8)) / 256
            self.weight = nn.Parameter(torch.from_numpy(weight).float())

        def forward(self, images: Tensor) -> Tensor:
            # Multiples of 1/256 below 2^16: each sum is exact in float32, whatever its order.
            return images.flatten(1) @ self.weight

    return nn.Sequential(Sums(), AleatoricHead())


@pytest.fixture
def images(torch_rng: torch.Generator) -> Tensor:
    """More than two blocks, and an odd number."""
    return torch.randint(0, 256, (151, 3, 5, 5), dtype=torch.uint8, generator=torch_rng)


def test_probabilities_are_the_mean_softmax(model: nn.Sequential, images: Tensor) -> None:
    samples = 4000
    found = predict_aleatoric(model, images[:5], samples=samples, seed=3)
    outputs = model[0](images[:5].float()).detach().double().numpy()
    f, sigma = outputs[:, :4], np.log1p(np.exp(-np.abs(outputs[:, 4:])))
    sigma = sigma + np.maximum(outputs[:, 4:], 0)
    noise = np.random.default_rng(1).normal(size=(samples, 5, 4))
    x = f + sigma * noise
    p = np.exp(x - x.max(axis=2, keepdims=True))
    p = (p / p.sum(axis=2, keepdims=True)).mean(axis=0)
    # Two means of numbers in 0–1: each has a standard error below 1/(2√T).
    assert np.abs(found.probabilities.numpy() - p).max() < 5 * math.sqrt(2) / (
        2 * math.sqrt(samples)
    )
    np.testing.assert_allclose(found.sigma.numpy(), sigma.mean(axis=1), rtol=1e-5)
    assert found.probabilities.dtype == found.sigma.dtype == torch.float64
    torch.testing.assert_close(found.probabilities.sum(dim=1), torch.ones(5).double())


def test_the_batch_size_changes_nothing_and_the_seed_does(
    model: nn.Sequential, images: Tensor
) -> None:
    wanted = predict_aleatoric(model, images, samples=7, seed=2)
    assert wanted.probabilities.shape == (151, 4)
    for batch_size in (1, 50, 64, 151):
        found = predict_aleatoric(model, images, samples=7, seed=2, batch_size=batch_size)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-12)
    state = torch.get_rng_state()
    other = predict_aleatoric(model, images, samples=7, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(other.probabilities, wanted.probabilities)
    assert torch.equal(other.sigma, wanted.sigma)


def test_equal_images_get_noise_of_their_own(model: nn.Sequential, images: Tensor) -> None:
    copies = images[:1].expand(151, -1, -1, -1)
    found = predict_aleatoric(model, copies, samples=2).probabilities
    assert len(set(map(tuple, found.tolist()))) == 151


def test_a_model_is_left_as_it_was_and_another_kind_is_refused(images: Tensor) -> None:
    model = build_model("basic_cnn", num_classes=3, image_shape=(3, 5, 5), aleatoric=True)
    model.network.dropout1.eval()
    flags = [each.training for each in model.modules()]
    first = predict_aleatoric(model, images[:9], samples=3)
    again = predict_aleatoric(model, images[:9], samples=3)
    assert torch.equal(first.probabilities, again.probabilities)  # no dropout
    assert [each.training for each in model.modules()] == flags
    with pytest.raises(TypeError, match=r"returns Tensor; .*aleatoric=True"):
        predict_aleatoric(nn.Flatten(), images)
    for options in ({"samples": 0}, {"seed": -1}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="accepted"):
            predict_aleatoric(model, images, **options)


def test_low_confidence_is_table_2s_definition(
    rng: np.random.Generator, predicted: tuple[np.ndarray, np.ndarray]
) -> None:
    p, labels = predicted
    sigma = rng.uniform(1, 9, 300)
    found = low_confidence(
        torch.from_numpy(p), torch.from_numpy(sigma), torch.from_numpy(labels), 5, threshold=0.45
    )
    rows: dict[int, list[tuple[float, float]]] = {c: [] for c in range(5)}
    smallest = 1.0
    for image in range(300):
        if p[image].argmax() == labels[image]:
            correct = p[image, labels[image]]
            smallest = min(smallest, correct)
            if correct <= 0.45:
                rows[labels[image]].append((correct, sigma[image]))
    assert found.smallest == smallest
    assert len(found.per_class) == 5
    everything = [pair for pairs in rows.values() for pair in pairs]
    assert len(everything) > 10
    for row, pairs in [
        *zip(found.per_class, rows.values(), strict=True),
        (found.total, everything),
    ]:
        assert row.count == len(pairs)
        if pairs:
            assert (row.probability, row.uncertainty) == pytest.approx(np.mean(pairs, axis=0))
    assert math.isnan(found.per_class[4].probability)
    assert math.isnan(found.per_class[4].uncertainty)
    record = json.loads(json.dumps(found.to_dict("abcde"), allow_nan=False))
    assert record["per_class"]["e"] == {"probability": None, "count": 0, "uncertainty": None}
    assert record["total"]["count"] == len(everything)
    assert record["smallest"] == smallest


def test_a_probability_of_one_half_is_low() -> None:
    p, labels = torch.tensor([[0.5, 0.3, 0.2], [0.0, 0.2, 0.8]]), torch.tensor([0, 1])
    found = low_confidence(p, torch.tensor([3.0, 4.0]), labels, 3)
    assert found.total == LowConfidenceRow(0.5, 1, 3.0)
    wrong = low_confidence(p, torch.tensor([3.0, 4.0]), torch.tensor([1, 0]), 3)
    assert wrong.total.count == 0
    assert math.isnan(wrong.smallest)


def test_low_confidence_refuses() -> None:
    labels, good = torch.tensor([0, 1]), torch.full((2, 4), 0.25)
    with pytest.raises(ValueError, match=r"sigma has shape \(3,\)"):
        low_confidence(good, torch.ones(3), labels, 4)
    with pytest.raises(ValueError, match=r"threshold=1\.5"):
        low_confidence(good, torch.ones(2), labels, 4, threshold=1.5)


def test_an_output_is_a_pair() -> None:
    logits, sigma = AleatoricOutput(torch.zeros(1, 2), torch.ones(1, 2))
    assert torch.equal(logits, sigma - 1)
