"""Reliability, calibration error, entropy and likelihood against their definitions in numpy."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from sign_ext.evaluation import reliability, uncertainty_scores


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_reliability_and_calibration_error_are_numpys(
    predicted: tuple[np.ndarray, np.ndarray], bins: int
) -> None:
    p, labels = predicted
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
    count, bounds = np.histogram(confidence, bins, (0, 1))
    summed, _ = np.histogram(confidence, bounds, weights=confidence)
    hits, _ = np.histogram(confidence, bounds, weights=right.astype(float))
    tensors = torch.from_numpy(p), torch.from_numpy(labels)
    found = reliability(*tensors, bins)
    np.testing.assert_array_equal(found.count.numpy(), count)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(found.confidence.numpy(), summed / count, rtol=1e-12)
        np.testing.assert_allclose(found.accuracy.numpy(), hits / count, rtol=1e-12)
    error = np.abs(hits - summed).sum() / len(p)
    scores = uncertainty_scores(*tensors, bins=bins)
    assert scores.calibration_error == pytest.approx(error, abs=1e-6)
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["count"] == count.tolist()
    assert [value is None for value in record["accuracy"]] == (count == 0).tolist()


def test_scores_are_their_formulas(predicted: tuple[np.ndarray, np.ndarray]) -> None:
    p, labels = predicted
    found = uncertainty_scores(torch.from_numpy(p), torch.from_numpy(labels))
    assert found.entropy == pytest.approx(-(p * np.log(p)).sum(axis=1).mean(), rel=1e-12)
    likelihood = -np.log(p[np.arange(300), labels]).mean()
    assert found.negative_log_likelihood == pytest.approx(likelihood, rel=1e-12)
    assert set(found.to_dict()) == {"entropy", "negative_log_likelihood", "calibration_error"}


def test_certain_predictions(rng: np.random.Generator) -> None:
    """Probabilities of exactly 1, or above it by rounding, are in the last bin like 0.99."""
    sure = np.full((100, 2), [1.0, 0.0])
    sure[::2] = [0.99, 0.01]
    sure[1::4, 0] += 1e-15
    labels = (rng.random(100) < 0.3).astype(np.int64)
    tensors = torch.from_numpy(sure), torch.from_numpy(labels)
    assert reliability(*tensors).count.tolist() == [0] * 14 + [100]
    scores = uncertainty_scores(*tensors)
    expected = abs((labels == 0).mean() - sure[:, 0].mean())
    assert scores.calibration_error == pytest.approx(expected, abs=1e-6)
    assert math.isfinite(scores.negative_log_likelihood)
    right = uncertainty_scores(torch.eye(3), torch.arange(3))
    assert right.entropy == right.negative_log_likelihood == 0.0
    assert right.calibration_error == pytest.approx(0.0, abs=1e-6)


def test_what_is_no_probability_is_named() -> None:
    labels, good = torch.tensor([0, 1]), torch.full((2, 4), 0.25)
    for p, words in (
        (good[:1], r"shape \(1, 4\)"),
        (good * 1.1, "sum other than 1"),
        (torch.tensor([[1.5, -0.5, 0, 0]] * 2), "softmax"),
        (good * math.nan, "sum other than 1"),
    ):
        for call in (uncertainty_scores, reliability):
            with pytest.raises(ValueError, match=words):
                call(p, labels)
    with pytest.raises(ValueError, match="bins=0"):
        reliability(good, labels, 0)
    with pytest.raises(ValueError, match="bins=0"):
        uncertainty_scores(good, labels, bins=0)
    with pytest.raises(ValueError, match="empty"):
        uncertainty_scores(good[:0], labels[:0])
