"""Numbers as people read them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from sign_ext.formatting import (
    binomial_error,
    bytes_in_words,
    duration,
    error_of_share,
    finite,
    mean_and_deviation,
    percent,
    quantity,
    share_in_words,
    signed,
    wilson_interval,
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


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (4.72e9, "FLOP", "4.72 GFLOP"),
        (0.0604, "s", "60.4 ms"),
        (4.5e-6, "s", "4.5 µs"),
        (3e-8, "s", "0.03 µs"),
        (2.0, "s", "2 s"),
        (999_400, "B", "999 kB"),
        (999_600, "B", "1 MB"),
        (0.9996, "s", "1 s"),
        (3.21e15, "FLOP", "3,210 TFLOP"),
        (0, "FLOP", "0 FLOP"),
    ],
)
def test_quantity(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


def test_quantity_is_the_value_to_three_digits(rng: np.random.Generator) -> None:
    prefixes = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "": 1.0, "m": 1e-3, "µ": 1e-6}
    for value in 10.0 ** rng.uniform(-6, 15, 200):
        number, unit = quantity(value, "s").split(" ")
        shown = float(number.replace(",", "")) * prefixes[unit.removesuffix("s")]
        assert shown == pytest.approx(value, rel=5.1e-3)
        assert 1 <= float(number.replace(",", "")) < 1000 or unit == "Ts"


def test_bytes_are_whole() -> None:
    assert [bytes_in_words(size) for size in (0, 0.4, 17, 10_240, 4.6e9)] == [
        "0 B",
        "0 B",
        "17 B",
        "10.2 kB",
        "4.6 GB",
    ]


def test_shares() -> None:
    assert [share_in_words(share) for share in (0, 1e-6, 0.0099, 0.01, 0.404, 1)] == [
        "0%",
        "under 1%",
        "under 1%",
        "1%",
        "40%",
        "100%",
    ]


def test_finite_makes_json() -> None:
    value = {50: (1.5, math.nan), "a": [math.inf, None, "b", True]}
    assert json.loads(json.dumps(finite(value), allow_nan=False)) == {
        "50": [1.5, None],
        "a": [None, None, "b", True],
    }


def test_signed_shows_a_minus_and_a_plus() -> None:
    assert (signed(-0.21, 1), signed(8.4, 1)) == ("−0.2", "+8.4")


def test_wilsons_interval_solves_its_equation() -> None:
    """Its ends are the shares p with |a − p| = 1.96 √(p(1 − p)/n)."""
    for right, images in ((0, 7), (3, 10), (100, 100), (1, 2000)):
        low, high = wilson_interval(right, images)
        share = right / images
        assert 0 <= low <= share <= high <= 1
        assert low < high
        for end in (low, high):
            if 0 < end < 1:
                error = 1.959964 * math.sqrt(end * (1 - end) / images)
                assert abs(share - end) == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize(("right", "wanted"), [(30, "88.6 to 100.0"), (0, "0.0 to 11.4")])
def test_all_right_or_none_has_an_interval_instead_of_no_error(right: int, wanted: str) -> None:
    shown, name = error_of_share(right, 30)
    # Wilson: n/(n + z²) is the lower end where all n are right.
    assert float(shown.split(" to ")[0 if right else 1]) == pytest.approx(
        100 * (30 if right else 1.959964**2) / (30 + 1.959964**2), abs=0.05
    )
    assert shown == wanted
    assert "Wilson" in name
    assert error_of_share(50, 100) == ("5.0", "binomial standard error")
