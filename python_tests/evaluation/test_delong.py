"""DeLong's covariance against its definition over all pairs of images, and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from sign_ext.evaluation import auc_components, auc_covariance, roc_auc


def by_definition(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The structural components as sums over all pairs, O(N²)."""
    x, y = scores[positive], scores[~positive]
    wins = (x[:, None] > y).astype(float) + 0.5 * (x[:, None] == y)
    return wins.mean(axis=1), wins.mean(axis=0)


def drawn(rng: np.random.Generator, positives: int, negatives: int, ties: bool) -> tuple:
    positive = rng.permutation(np.arange(positives + negatives) < positives)
    scores = rng.normal(size=(2, positives + negatives)) + positive * [[0.7], [1.0]]
    scores[1] += 0.8 * scores[0]
    return (np.round(scores) if ties else scores), positive


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("positives", "negatives"), [(2, 2), (3, 11), (37, 5)])
def test_components_and_covariance_are_their_definitions(
    positives: int, negatives: int, ties: bool, rng: np.random.Generator
) -> None:
    scores, positive = drawn(rng, positives, negatives, ties)
    curves = [auc_components(each, positive) for each in scores]
    slow = [by_definition(each, positive) for each in scores]
    for fast, (of_positive, of_negative), each in zip(curves, slow, scores, strict=True):
        np.testing.assert_allclose(fast.positive, of_positive, atol=1e-12)
        np.testing.assert_allclose(fast.negative, of_negative, atol=1e-12)
        logits = torch.from_numpy(np.stack([np.zeros(len(each)), each], axis=1))
        expected = roc_auc(logits, torch.from_numpy(positive.astype(np.int64)))
        assert fast.area == pytest.approx(expected, abs=1e-6)
    expected = np.zeros((2, 2))
    for r, s in itertools.product(range(2), repeat=2):
        for side, count in ((0, positives), (1, negatives)):
            a, b = slow[r][side], slow[s][side]
            products = sum((p - a.mean()) * (q - b.mean()) for p, q in zip(a, b, strict=True))
            expected[r, s] += products / (count - 1) / count
    np.testing.assert_allclose(auc_covariance(curves), expected, atol=1e-12)


def test_the_variance_is_that_of_areas_of_new_images(rng: np.random.Generator) -> None:
    positives, negatives, trials = 40, 80, 3000
    areas, estimates = [], []
    for _ in range(trials):
        scores, positive = drawn(rng, positives, negatives, ties=False)
        curves = [auc_components(each, positive) for each in scores]
        areas.append(curves[0].area - curves[1].area)
        covariance = auc_covariance(curves)
        estimates.append(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    # The standard error of a variance from that many trials is 2.6%.
    assert np.mean(estimates) == pytest.approx(np.var(areas), rel=0.1)


def test_refusals() -> None:
    scores, positive = np.array([0.1, 0.4, 0.9, 0.2]), np.array([True, False, True, False])
    with pytest.raises(ValueError, match="at least one of each"):
        auc_components(scores, np.ones(4, dtype=bool))
    with pytest.raises(ValueError, match="finite"):
        auc_components(np.array([0.1, np.nan, 0.9, 0.2]), positive)
    with pytest.raises(ValueError, match="positive bool"):
        auc_components(scores, positive.astype(int))
    one = auc_components(scores[:3], positive[:3])
    with pytest.raises(ValueError, match="two of each class"):
        auc_covariance([one, one])
    with pytest.raises(ValueError, match="the same images"):
        auc_covariance([one, auc_components(scores, positive)])
