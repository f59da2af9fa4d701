"""Numbers as people read them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from sign_ext.formatting import (
    binomial_error,
    duration,
    finite,
    mean_and_deviation,
    percent,
    signed,
)


def test_percent() -> None:
    assert percent(0.9812) == "98.1"
    assert percent(0.00456, digits=2) == "0.46"
    assert percent(None) == percent(math.nan) == "–"


@pytest.mark.parametrize("accuracy", [0.0, 0.3, 0.985, 1.0])
def test_binomial_error_is_the_deviation_of_an_accuracy(accuracy: float) -> None:
    images = 50
    k = np.arange(images + 1)
    chance = np.array([math.comb(images, int(i)) for i in k], dtype=float)
    chance *= accuracy**k * (1 - accuracy) ** (images - k)
    variance = (chance * (k / images - accuracy) ** 2).sum()
    assert binomial_error(accuracy, images) == pytest.approx(np.sqrt(variance), abs=1e-9)


def test_mean_and_deviation(rng: np.random.Generator) -> None:
    values = rng.normal(size=7).tolist()
    expected = (np.mean(values), np.std(values, ddof=1))
    assert mean_and_deviation(values) == pytest.approx(expected)
    assert mean_and_deviation([0.25]) == (0.25, 0.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.31, "0.3 s"),
        (42.4, "42 s"),
        (99.7, "1 min 40 s"),
        (185, "3 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_finite_makes_json() -> None:
    value = {50: (1.5, math.nan), "a": [math.inf, None, "b", True]}
    assert json.loads(json.dumps(finite(value), allow_nan=False)) == {
        "50": [1.5, None],
        "a": [None, None, "b", True],
    }


def test_signed_shows_a_minus_and_a_plus() -> None:
    assert (signed(-0.21, 1), signed(8.4, 1)) == ("−0.2", "+8.4")
