"""How far images moved, against the formulas in numpy, and whether they moved at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sign_ext import change
from sign_ext.change import (
    Change,
    combine,
    describe_change,
    exceeds_rounding,
    measure_change,
    share_negative,
)


def pair(generator: torch.Generator, n: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    originals = torch.randint(0, 256, (n, 3, 5, 4), generator=generator, dtype=torch.uint8)
    return originals.float() + 20 * torch.randn(n, 3, 5, 4, generator=generator), originals


@pytest.mark.parametrize("at_once", [1, 130, 1 << 20])
@pytest.mark.parametrize("positions", [None, [0, 3, 6], []])
def test_change_is_its_formula(torch_rng, monkeypatch, at_once, positions):
    monkeypatch.setattr(change, "VALUES_AT_ONCE", at_once)
    moved, originals = pair(torch_rng)
    got = measure_change(moved, originals, positions)
    rows = range(7) if positions is None else positions
    difference = moved.double().numpy()[list(rows)] - originals.double().numpy()[list(rows)]
    if positions == []:
        assert got == Change(0, 0.0, 0.0)
        return
    assert got.images == len(rows)
    assert got.rms == pytest.approx(np.sqrt((difference**2).mean()), rel=1e-12)
    assert got.largest == np.abs(difference).max()


def test_parts_combine_to_the_whole(torch_rng):
    moved, originals = pair(torch_rng)
    parts = [measure_change(moved[a:b], originals[a:b]) for a, b in ((0, 2), (2, 3), (3, 7))]
    whole, got = measure_change(moved, originals), combine(parts)
    assert (got.images, got.largest) == (7, whole.largest)
    assert got.rms == pytest.approx(whole.rms, rel=1e-12)


def test_what_result_files_hold(torch_rng):
    moved, originals = pair(torch_rng)
    got = describe_change(moved, originals)
    assert got["rms"] == measure_change(moved, originals).rms
    assert got["share_negative"] == share_negative(moved) == float((moved < 0).double().mean())
    assert sorted(got) == ["largest", "rms", "share_negative"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_less_than_the_last_bit_of_the_largest_value_is_no_move(dtype):
    images = torch.tensor([[0.0, -255.0, 3.0]], dtype=dtype)
    bit = 255 * torch.finfo(dtype).eps
    assert exceeds_rounding(torch.tensor(1.01 * bit), images)
    assert not exceeds_rounding(torch.tensor(0.99 * bit), images)
    assert not exceeds_rounding(torch.tensor(0.0), images)
