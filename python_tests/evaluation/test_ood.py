"""Accuracy where classes are missing, by counting; and which mean Table 3 prints."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sign_ext.evaluation import present_class_accuracy

# Table 3: right images by class (automobile, bird, cat, dog, frog) and the column "Mean (643)".
COUNTS = (49, 146, 50, 298, 100)
TABLE_3 = {
    "Classical": ((0.8163, 0.5479, 0.6800, 0.3289, 0.8300), 0.5210),
    "mixup": ((0.7551, 0.4726, 0.6800, 0.2919, 0.7900), 0.4759),
    "SIGN": ((0.9184, 0.3973, 0.7200, 0.4497, 0.8000), 0.5490),
}


def test_it_is_counting(rng: np.random.Generator) -> None:
    logits = rng.normal(size=(643, 10)).astype(np.float32)
    labels = rng.choice([1, 2, 3, 5, 6], 643, p=[0.1, 0.2, 0.1, 0.5, 0.1])
    found = present_class_accuracy(torch.from_numpy(logits), torch.from_numpy(labels), 10)
    right = logits.argmax(1) == labels
    assert list(found.per_class) == [1, 2, 3, 5, 6]
    for each, accuracy in found.per_class.items():
        assert accuracy == right[labels == each].sum() / (labels == each).sum()
    overall, per_class = found
    assert overall == right.sum() / 643
    assert found.class_mean == pytest.approx(np.mean(list(per_class.values())))
    # Most predictions are of classes that do not occur, and count as wrong.
    assert np.isin(logits.argmax(1), [0, 4, 7, 8, 9]).sum() > 200


@pytest.mark.parametrize("method", TABLE_3)
def test_the_papers_mean_is_over_images(method: str) -> None:
    accuracies, mean = TABLE_3[method]
    right = [round(a * n) for a, n in zip(accuracies, COUNTS, strict=True)]
    labels = torch.tensor([1, 2, 3, 5, 6]).repeat_interleave(torch.tensor(COUNTS))
    hits = torch.cat([torch.arange(n) < r for n, r in zip(COUNTS, right, strict=True)])
    predictions = torch.where(hits, labels, 9)  # a class that does not occur
    found = present_class_accuracy(torch.eye(10)[predictions], labels, 10)
    assert [round(a, 4) for a in found.per_class.values()] == list(accuracies)
    assert round(found.overall, 4) == mean
    assert found.class_mean == pytest.approx(sum(accuracies) / 5, abs=1e-4)
    assert abs(found.class_mean - mean) > 0.1


def test_refusals() -> None:
    with pytest.raises(ValueError, match="empty"):
        present_class_accuracy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 3)
    with pytest.raises(ValueError, match="shape"):
        present_class_accuracy(torch.zeros(2, 4), torch.tensor([0, 1]), 3)
