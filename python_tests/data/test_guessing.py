"""What passes for guessing, against exact fractions, scipy, and every order of a few images."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import binom

from sign_ext.data.guessing import (
    LEVEL,
    chance_of_as_many,
    doubt_of_accuracy,
    doubt_of_area,
)


def tail(right: int, images: int, share: Fraction) -> Fraction:
    """The chance of as many right answers, as a fraction."""
    return sum(
        (
            math.comb(images, k) * share**k * (1 - share) ** (images - k)
            for k in range(right, images + 1)
        ),
        Fraction(0),
    )


@pytest.mark.parametrize("share", [Fraction(1, 10), Fraction(3, 7), Fraction(81, 100)])
@pytest.mark.parametrize("images", [1, 13, 211])
def test_the_tail_is_exact(images, share):
    for right in {0, 1, images // 3, images // 2, images - 1, images, images + 1}:
        found = chance_of_as_many(right, images, float(share))
        assert found == pytest.approx(float(tail(right, images, share)), rel=1e-10)


def test_many_images_lose_no_accuracy():
    for right in (950, 1000, 1049, 1050, 1200):
        found = chance_of_as_many(right, 10_000, 0.1)
        assert found == pytest.approx(float(binom.sf(right - 1, 10_000, 0.1)), rel=1e-9)
    assert chance_of_as_many(3, 5, 0.0) == 0.0
    assert chance_of_as_many(5, 5, 1.0) == 1.0


def accuracy_doubted(right: int, images: int, share: Fraction, tries: int) -> bool:
    text = doubt_of_accuracy(
        right / images, images, float(share), of="accuracy", guess="of x", tries=tries
    )
    return bool(text)


@pytest.mark.parametrize("tries", [1, 7, 20])
@pytest.mark.parametrize(("images", "share"), [(61, Fraction(1, 7)), (150, Fraction(4, 5))])
def test_an_accuracy_is_doubted_until_guessing_is_unlikely(images, share, tries):
    doubted = [accuracy_doubted(right, images, share, tries) for right in range(images + 1)]
    expected = [
        tail(right, images, share) >= Fraction(LEVEL) / tries for right in range(images + 1)
    ]
    assert doubted == expected
    assert True in doubted
    assert False in doubted


def test_a_network_that_guesses_is_rarely_taken_for_one_that_has_learnt(rng):
    images, share, tries, runs = 253, 0.1, 9, 3000
    best = rng.binomial(images, share, size=(runs, tries)).max(axis=1)
    passed = np.mean([not accuracy_doubted(int(b), images, Fraction(1, 10), tries) for b in best])
    assert 0.001 < passed < LEVEL + 3 * math.sqrt(LEVEL / runs)


def test_too_few_images_tell_nothing():
    assert not accuracy_doubted(1, 1, Fraction(1, 10), 3)  # even all right is no proof
    assert not accuracy_doubted(0, 4, Fraction(1), 1)
    assert doubt_of_area(1.0, 1, 2, of="AUC") == doubt_of_area(0.5, 0, 9, of="AUC") == ""


def test_the_deviation_of_a_guessed_area_is_that_of_every_order():
    positives, negatives = 3, 5
    areas = []
    for places in itertools.combinations(range(positives + negatives), positives):
        others = [i for i in range(positives + negatives) if i not in places]
        areas.append(np.mean([p > n for p in places for n in others]))
    told = doubt_of_area(0.5, positives, negatives, of="best validation AUC")
    assert f"0.500 ± {np.std(areas):.3f}" in told
    assert told.startswith("its best validation AUC, 0.500 on 8 images, is what guessing gives")


def test_an_area_is_doubted_up_to_the_normal_bound():
    error = math.sqrt((30 + 120 + 1) / (12 * 30 * 120))
    for tries, deviations in ((1, 1.644854), (10, 2.575829)):
        bound = 0.5 + deviations * error
        assert doubt_of_area(bound - 1e-4, 30, 120, of="AUC", tries=tries)
        assert not doubt_of_area(bound + 1e-4, 30, 120, of="AUC", tries=tries)
    assert doubt_of_area(0.1, 30, 120, of="AUC")  # far below is no better
