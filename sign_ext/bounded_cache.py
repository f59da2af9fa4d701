"""A cache of a few entries that drops the least recently used: what an engine keeps per shape."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """At most `limit` entries; a new one replaces the least recently used.

    It takes no lock. The engines that use it run one call at a time, since their entries hold
    buffers that two calls could not share anyway.

    Args:
        limit: the largest number of entries, at least 1.

    Example:
        >>> cache = BoundedCache[str, int](2)
        >>> [cache.get_or_make(word, lambda: len(word)) for word in ("a", "bb", "a", "ccc")]
        [1, 2, 1, 3]
        >>> list(cache)
        ['a', 'ccc']
    """

    def __init__(self, limit: int) -> None:
        """Start empty."""
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self.limit = limit
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        """Count the entries."""
        return len(self._entries)

    def __iter__(self) -> Iterator[K]:
        """Go through the keys, the least recently used first; nothing counts as used."""
        return iter(self._entries)

    def values(self) -> list[V]:
        """The entries in the order of their keys; nothing counts as used."""
        return list(self._entries.values())

    def get(self, key: K) -> V | None:
        """The entry of `key`, or None; it does not count as used.

        Args:
            key: what the entry is for.
        """
        return self._entries.get(key)

    def get_or_make(
        self, key: K, make: Callable[[], V], is_valid: Callable[[V], bool] | None = None
    ) -> V:
        """The entry of `key`, which becomes the most recently used; made where there is none.

        Room is made before `make` runs, so that the memory of a dropped entry is free by then.
        Where `make` raises, nothing is kept under `key`.

        Args:
            key: what the entry is for.
            make: makes the entry.
            is_valid: whether an entry can still be used; one that cannot is dropped and made anew.
        """
        value = self._entries.pop(key, None)
        if value is None or (is_valid is not None and not is_valid(value)):
            value = None  # a stale entry's memory, too, must be free before `make` runs
            while len(self._entries) >= self.limit:
                self._entries.popitem(last=False)
            value = make()
        self._entries[key] = value
        return value

    def drop_key(self, key: K) -> None:
        """Drop the entry of `key`, if there is one."""
        self._entries.pop(key, None)

    def drop(self, is_stale: Callable[[V], bool]) -> None:
        """Drop the entries for which `is_stale` is true."""
        for key in [key for key, value in self._entries.items() if is_stale(value)]:
            del self._entries[key]
