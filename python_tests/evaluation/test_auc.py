"""The area under the ROC curve against Mann and Whitney's count of pairs, with ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sign_ext.evaluation import roc_auc, roc_curve


def data(
    rng: np.random.Generator, count: int, scores: np.ndarray | None = None
) -> tuple[Tensor, Tensor, np.ndarray, np.ndarray]:
    """Logits and labels for torch; score differences and labels for NumPy."""
    labels = rng.permutation(np.arange(count) % 3 == 0).astype(np.int64)
    logits = rng.normal(size=(count, 2)).astype(np.float32)
    logits[:, 1] += labels
    if scores is not None:
        logits = np.stack([np.zeros(count), scores], 1).astype(np.float32)
    difference = logits[:, 1].astype(np.float64) - logits[:, 0]
    return torch.from_numpy(logits), torch.from_numpy(labels), difference, labels


def pairs_won(scores: np.ndarray, labels: np.ndarray) -> float:
    """The share of pairs in which the positive scores higher; ties count one half."""
    gaps = scores[labels == 1][:, None] - scores[labels == 0][None]
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean())


@pytest.mark.parametrize("count", [2, 7, 61, 601])
def test_it_is_the_share_of_pairs_won(count: int, rng: np.random.Generator) -> None:
    logits, labels, scores, classes = data(rng, count)
    assert roc_auc(logits, labels) == pytest.approx(pairs_won(scores, classes), abs=1e-6)


@pytest.mark.parametrize("levels", [1, 2, 5, 19])
def test_ties_count_one_half(levels: int, rng: np.random.Generator) -> None:
    scores = rng.integers(0, levels, 211) / 4
    logits, labels, scores, classes = data(rng, 211, scores)
    expected = pairs_won(scores, classes)
    assert roc_auc(logits, labels) == pytest.approx(expected, abs=1e-6)
    if levels == 1:
        assert expected == 0.5


@pytest.mark.parametrize(("scale", "shift"), [(1e4, 0), (1, 300), (1e-3, -90)])
def test_large_logits_stay_apart(scale: float, shift: float, rng: np.random.Generator) -> None:
    # A logistic function in float32 makes all scores above 17 equal, and so ties of them.
    scores = rng.permutation(np.arange(151)) * scale + shift
    logits, labels, scores, classes = data(rng, 151, scores)
    assert len(set(scores)) == 151
    assert roc_auc(logits, labels) == pytest.approx(pairs_won(scores, classes), abs=1e-6)


def test_the_curve_is_counting(rng: np.random.Generator) -> None:
    logits, labels, scores, classes = data(rng, 97, rng.integers(0, 23, 97) / 2)
    false_positive, true_positive = (rates.numpy() for rates in roc_curve(logits, labels))
    assert false_positive.dtype == true_positive.dtype == np.float32
    thresholds = [np.inf, *sorted(set(scores), reverse=True)]
    expected = [
        [(scores[classes == each] >= threshold).mean() for threshold in thresholds]
        for each in (0, 1)
    ]
    np.testing.assert_allclose(false_positive, expected[0], atol=1e-6)
    np.testing.assert_allclose(true_positive, expected[1], atol=1e-6)
    area = np.trapezoid(true_positive, false_positive)
    assert area == pytest.approx(roc_auc(logits, labels), abs=1e-6)


def test_exchanged_classes_mirror_it(rng: np.random.Generator) -> None:
    logits, labels, _, _ = data(rng, 53)
    mirrored = roc_auc(logits, 1 - labels)
    assert mirrored == pytest.approx(1 - roc_auc(logits, labels), abs=1e-6)
    assert roc_auc(logits.flip(1), labels) == pytest.approx(mirrored, abs=1e-6)


def test_refusals() -> None:
    labels = torch.tensor([0, 1, 1])
    for function in (roc_auc, roc_curve):
        for shape in ((3, 3), (3, 1), (2, 2), (3,)):
            with pytest.raises(ValueError, match=r"accepted: \(N, 2\) and \(N,\)"):
                function(torch.zeros(shape), labels)
        with pytest.raises(ValueError, match="both of them present"):
            function(torch.zeros(3, 2), torch.ones(3, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"values \[0, 1, 2\]"):
            function(torch.zeros(3, 2), torch.arange(3))
        with pytest.raises(ValueError, match="accepted: 0 and 1"):
            function(torch.zeros(0, 2), labels[:0])
        for bad in (float("nan"), float("inf")):
            with pytest.raises(ValueError, match="NaN or infinite"):
                function(torch.tensor([[0.0, 1.0], [bad, 0.0], [0.0, 0.0]]), labels)
