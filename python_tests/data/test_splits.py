"""Stratified choices: counts against exact fractions; splits disjoint and complete."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sign_ext.data import load_data
from sign_ext.data.decode import Unreadable
from sign_ext.data.splits import shares, stratified_choice, three_way_split

COUNTS = st.lists(st.integers(1, 400), min_size=1, max_size=12)


@given(COUNTS, st.data())
def test_shares_are_the_proportional_ones_rounded(counts: list[int], data: st.DataObject) -> None:
    size = data.draw(st.integers(1, sum(counts)))
    result = shares(np.array(counts), size).tolist()
    assert sum(result) == size
    for share, count in zip(result, counts, strict=True):
        assert abs(share - Fraction(size * count, sum(counts))) < 1
        assert 0 <= share <= count


@given(st.integers(1, 13), st.integers(1, 50), st.data())
def test_equal_classes_differ_by_at_most_one(classes: int, each: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, classes * each))
    result = shares(np.full(classes, each), size)
    assert result.max() - result.min() <= 1


def test_choice_is_seeded_and_increasing(rng: np.random.Generator) -> None:
    labels = rng.integers(0, 7, 1001)
    one = stratified_choice(labels, 103, seed=3)
    assert len(set(one.tolist())) == 103
    assert (np.diff(one) > 0).all()
    np.testing.assert_array_equal(one, stratified_choice(labels, 103, seed=3))
    assert not np.array_equal(one, stratified_choice(labels, 103, seed=4))
    np.testing.assert_array_equal(stratified_choice(labels, 1001, seed=3), np.arange(1001))


def test_every_image_is_chosen_equally_often() -> None:
    labels = np.repeat([0, 1], [30, 10])
    hits = sum(np.bincount(stratified_choice(labels, 8, seed=s), minlength=40) for s in range(500))
    # 500 draws at probability 1/5: mean 100, standard deviation 8.9.
    assert hits.min() > 100 - 5 * 8.95
    assert hits.max() < 100 + 5 * 8.95


@pytest.mark.parametrize("size", [0, -1, 12])
def test_impossible_sizes(size: int) -> None:
    with pytest.raises(ValueError, match=f"train_size={size}; accepted: 1 to 11"):
        stratified_choice(np.zeros(11, dtype=int), size, seed=0, argument="train_size")


@given(st.lists(st.integers(3, 200), min_size=1, max_size=9), st.integers(0, 2**31))
def test_three_way_split_covers_everything_once(counts: list[int], seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    parts = three_way_split(labels)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    train, *held_out = (np.bincount(labels[part], minlength=len(counts)) for part in parts)
    assert train.min() >= 1
    for found in held_out:
        for number, count in zip(found, counts, strict=True):
            assert number >= 1
            assert number == 1 or abs(number - 0.15 * count) <= 0.5


def test_parts_have_the_splits_names() -> None:
    splits = load_data("digits", train_size=20, test_size=10, image_size=8)
    assert splits.part("train") is splits.train
    assert splits.part("validation") is splits.validation
    assert splits.part("test") is splits.test


def test_skipped_images_have_positions_among_all_images() -> None:
    splits = load_data("digits", train_size=5, test_size=4)
    skipped = tuple(
        Unreadable(index, "damaged", split=split)
        for split, index in (("train", 5), ("validation", 0), ("test", 2))
    )
    splits = dataclasses.replace(splits, skipped=skipped)
    assert splits.skipped_in("validation") == [0]
    # Six training images with the one that was skipped, then the validation images and its own.
    before = 6 + len(splits.validation) + 1
    assert splits.skipped_in("all") == [5, 6, before + 2]
