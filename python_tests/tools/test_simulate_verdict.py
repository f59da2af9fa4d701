"""The simulation of the verdict's rule: what it draws, what it judges, and its error in small."""

from __future__ import annotations

import math

import numpy as np
import pytest
from simulate_verdict import LEAN, MARGIN, Case, bootstrap, judge, simulate

from sign_ext.evaluation import Samples, crossed, image_covariance


def test_what_is_drawn_has_the_moments_it_claims(rng: np.random.Generator) -> None:
    case = Case(seeds=2, discordance=0.12, deviation=0.0, effect=0.01, images=400_000)
    drawn = case.draw(rng).astype(float)
    # Standard errors are about 5e-4 here.
    assert np.abs(drawn).sum(axis=0) / case.images == pytest.approx(0.12, abs=0.003)
    assert drawn.sum(axis=0) / case.images == pytest.approx(0.01, abs=0.003)
    shared = (drawn[:, 0] * drawn[:, 1]).sum() / case.images
    assert shared == pytest.approx(0.12 * LEAN**2 / 2.5, abs=0.003)


def test_the_rule_is_that_of_reports(rng: np.random.Generator) -> None:
    case = Case(seeds=3, discordance=0.2, deviation=0.003, effect=0.01, images=500)
    drawn = case.draw(rng)
    right = np.zeros((500, 3))
    right[: len(drawn)] = drawn
    method = [Samples("mean", (column > 0).astype(float)) for column in right.T]
    baseline = [Samples("mean", (column < 0).astype(float)) for column in right.T]
    differences = [a.value() - b.value() for a, b in zip(method, baseline, strict=True)]
    expected = crossed(differences, image_covariance(method, baseline))
    found = judge(drawn, 500)
    assert found.difference == pytest.approx(expected.difference)
    assert found.error == pytest.approx(expected.error)
    assert found.freedom == pytest.approx(expected.freedom)
    low, high = bootstrap(drawn, 500)
    assert low < found.difference < high


def test_error_and_power_are_as_stated() -> None:
    rng = np.random.default_rng(20)
    trials = 300
    nothing = simulate(Case(5, 0.08, 0.003), trials, rng, bootstraps=3)
    assert nothing.different <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
    much = simulate(Case(5, 0.08, 0.003, effect=0.0087), trials // 3, rng)
    assert much.better > 0.75
    # On the margin itself, "no difference" would be wrong.
    edge = simulate(Case(10, 0.08, 0.001, effect=MARGIN), trials // 3, rng)
    assert edge.equal <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / (trials // 3))
    same = simulate(Case(10, 0.08, 0.001), trials // 3, rng)
    assert same.equal > edge.equal


def test_the_smallest_detectable_difference_is_found_in_four_of_five() -> None:
    rng = np.random.default_rng(7)
    case = Case(10, 0.08, 0.003)
    detectable = simulate(case, 40, rng).detectable
    assert 0.003 < detectable < 0.008
    at = simulate(Case(10, 0.08, 0.003, effect=detectable), 300, rng)
    assert at.better == pytest.approx(0.8, abs=0.1)
