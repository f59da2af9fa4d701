"""Descriptions and verification: each kind of damage is found, and a rerun repairs it."""

from __future__ import annotations

import pytest
from store_parts import SHARD, expected, flip

from sign_ext.store import (
    transform_to_store,
    verify,
)
from sign_ext.store.inspect import describe, in_words


def damages(store):
    """Yield (a word of the fault, what damages the store)."""
    size = (store / SHARD).stat().st_size
    yield "damaged", lambda: flip(store / SHARD, size - 1)
    yield "damaged", lambda: flip(store / SHARD, 9)  # in the header
    yield "damaged", lambda: flip(store / SHARD, size // 2)
    yield "truncated", lambda: (store / SHARD).write_bytes((store / SHARD).read_bytes()[:-7])
    yield "truncated", lambda: (store / SHARD).write_bytes(b"")
    yield "missing", lambda: (store / SHARD).unlink()


def test_damage_is_found_and_repaired_to_the_same_bytes(store, sign, source, content_of):
    whole, messages = content_of(store), []
    assert verify(store).faults == ()
    for word, damage in damages(store):
        damage()
        verdict = verify(store)
        (fault,) = verdict.faults
        assert SHARD in fault
        assert word in fault
        assert verdict.whole == 4
        run = transform_to_store(sign, source, store, shard_size=5, say=messages.append)
        assert (run.made, run.kept) == (1, 4)
        assert content_of(store) == whole
    assert sum("made again" in line for line in messages) == 5  # none about the missing one


def test_description_and_change_are_of_these_images(sign, source, tmp_path):
    transform_to_store(sign, source, tmp_path, shard_size=6)
    store = describe(tmp_path)
    originals, wanted = source.read(0, 23).double(), expected(source)
    for step in (1, 3):
        delta = wanted[step].double() - originals
        assert store["change"][step]["rms"] == pytest.approx(
            float(delta.square().mean().sqrt()), rel=1e-4
        )
        assert store["change"][step]["largest"] == pytest.approx(float(delta.abs().max()), rel=1e-4)
    assert store["complete"]
    assert (store["images"], store["of"], store["shards"]) == (23, 23, 4)
    assert store["recipe"]["data"]["name"] == "random/train"
    text = "\n".join(f"{name} {words}" for name, words in in_words(store))
    assert "23 of 23" in text
    assert "K = 1, 3" in text
