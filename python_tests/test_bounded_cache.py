"""The bounded cache: what it keeps, in which order it drops, and what a failure leaves."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from sign_ext.bounded_cache import BoundedCache


def test_it_keeps_the_most_recently_used(rng: np.random.Generator) -> None:
    """Against the definition: the last `limit` distinct keys, in the order of their last use."""
    keys = rng.integers(0, 7, 200).tolist()
    cache = BoundedCache[int, int](4)
    for position, key in enumerate(keys):
        assert cache.get_or_make(key, lambda key=key: 10 * key) == 10 * key
        last_used = list(dict.fromkeys(reversed(keys[: position + 1])))[:4]
        assert list(cache) == last_used[::-1]
        assert cache.values() == [10 * key for key in cache]
        assert len(cache) == len(last_used)


def test_an_entry_is_made_once_while_it_is_kept() -> None:
    made: list[str] = []
    cache = BoundedCache[str, object](2)
    for key in ("a", "b", "a", "c", "a", "b"):
        cache.get_or_make(key, lambda key=key: made.append(key) or key)
    assert made == ["a", "b", "c", "b"]  # c dropped b, which was used before a


def test_an_invalid_entry_is_made_anew_and_costs_no_other() -> None:
    cache = BoundedCache[str, int](2)
    cache.get_or_make("a", lambda: 1)
    cache.get_or_make("b", lambda: 2)
    assert cache.get_or_make("a", lambda: 3, lambda value: value == 1) == 1
    assert cache.get_or_make("a", lambda: 3, lambda value: value != 1) == 3
    assert list(cache) == ["b", "a"]


class Entry:
    pass


def test_room_is_made_before_the_new_entry() -> None:
    """The memory of what is dropped, or no longer valid, is free when the new entry is made."""
    cache = BoundedCache[int, Entry](1)
    first = weakref.ref(cache.get_or_make(1, Entry))

    def make() -> Entry:
        gc.collect()
        assert first() is None
        return Entry()

    cache.get_or_make(2, make)
    first = weakref.ref(cache.get_or_make(2, Entry))
    cache.get_or_make(2, make, lambda _: False)
    assert len(cache) == 1


def test_a_failure_keeps_nothing() -> None:
    cache = BoundedCache[str, int](2)
    cache.get_or_make("a", lambda: 1)
    with pytest.raises(ZeroDivisionError):
        cache.get_or_make("b", lambda: 1 // 0)
    assert list(cache) == ["a"]
    assert cache.get_or_make("b", lambda: 2) == 2


def test_stale_entries_are_dropped() -> None:
    cache = BoundedCache[int, int](5)
    for key in range(5):
        cache.get_or_make(key, lambda key=key: key)
    cache.drop(lambda value: value % 2 == 1)
    assert list(cache) == [0, 2, 4]


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        BoundedCache[int, int](0)


def test_a_look_makes_nothing_and_does_not_count_as_use() -> None:
    cache = BoundedCache[str, int](2)
    for number, key in enumerate("ab"):
        cache.get_or_make(key, lambda number=number: number)
    assert (cache.get("a"), cache.get("z")) == (0, None)
    cache.get_or_make("c", lambda: 2)
    assert list(cache) == ["b", "c"]
