"""Contrast, edges and evenly spaced samples, against closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from sign_ext.experiments.stages.measure import contrast_and_edges, evenly_spaced


def test_contrast_and_edges_of_a_ramp():
    # Grey rises by 2 a column and 0 a row: gradient 2 everywhere, deviation that of the columns.
    ramp = (2.0 * torch.arange(9)).expand(1, 3, 6, 9).contiguous()
    measured = contrast_and_edges(ramp)
    columns = np.repeat(2.0 * np.arange(9), 6)
    assert measured["edges"] == pytest.approx(2.0)
    assert measured["contrast"] == pytest.approx(columns.std(ddof=1), rel=1e-6)


def test_positions_are_even_and_distinct():
    places = evenly_spaced(103, 10)
    assert places[0] == 0
    assert {b - a for a, b in itertools.pairwise(places)} <= {10, 11}
    assert max(places) < 103
