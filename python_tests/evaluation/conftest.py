"""Predictions that the tests of calibration and uncertainty share."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def predicted(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (300, 5) that are right more often than not, and labels."""
    labels = rng.integers(0, 4, 300)  # nothing of class 4
    logits = rng.normal(size=(300, 5)) * 2
    logits[np.arange(300), labels] += 1.5
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True), labels
