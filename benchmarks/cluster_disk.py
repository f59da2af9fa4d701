"""The file system of a simulated cluster: shards being hashed, transferred and renamed."""

from __future__ import annotations

import heapq
import math
from collections import deque


class Disk:
    """The writes of many ranks, at most one at a time per rank.

    The rank hashes and flushes a shard, then the shard is transferred, then its metadata requests
    (create, rename) are served. Concurrent transfers share the bandwidth equally; metadata requests
    are served one after another.

    Args:
        bandwidth: Bytes per second for all ranks together.
        link: Bytes per second for one rank.
        answer: Seconds to serve the metadata requests of one shard.
    """

    def __init__(self, bandwidth: float, link: float, answer: float) -> None:
        """Start idle at time 0."""
        self._bandwidth, self._link, self._service_seconds = bandwidth, link, answer
        self._free = min(bandwidth, link) == math.inf
        self._hashing: list[tuple[float, int, float]] = []
        self._transferring: list[tuple[float, int]] = []
        self._serving: deque[tuple[float, int]] = deque()
        # All transfers progress at the same rate, so one number determines when each one ends: the
        # bytes that a rank would have moved so far if it had transferred all the time.
        self._moved = self._now = self._served_until = 0.0

    def write(self, rank: int, now: float, own: float, size: float) -> None:
        """Start a write.

        Args:
            rank: The rank that writes.
            now: Current time.
            own: Seconds of hashing and flushing by the rank before the transfer.
            size: Bytes to transfer.
        """
        heapq.heappush(self._hashing, (now + own, rank, size))

    def next(self) -> float:
        """The time of the next event; infinite if the disk is idle."""
        serving = self._serving[0][0] if self._serving else math.inf
        hashing = self._hashing[0][0] if self._hashing else math.inf
        return min(serving, hashing, self._arrival() if self._transferring else math.inf)

    def advance(self, now: float) -> int | None:
        """Process the next event; returns the rank if its write is finished by it.

        Args:
            now: The time that `next` returned.
        """
        if self._serving and self._serving[0][0] <= now:
            return self._serving.popleft()[1]
        if self._hashing and self._hashing[0][0] <= now:
            _, rank, size = heapq.heappop(self._hashing)
            if self._free or not size:
                self._request(rank, now)
            else:
                if self._transferring:
                    self._moved += (now - self._now) * self._speed()
                self._now = now
                heapq.heappush(self._transferring, (self._moved + size, rank))
        else:
            self._moved, rank = heapq.heappop(self._transferring)
            self._now = now
            self._request(rank, now)
        return None

    def _speed(self) -> float:
        return min(self._link, self._bandwidth / len(self._transferring))

    def _arrival(self) -> float:
        left = (self._transferring[0][0] - self._moved) / self._speed()
        return self._now + max(left, 0.0)

    def _request(self, rank: int, now: float) -> None:
        self._served_until = max(self._served_until, now) + self._service_seconds
        self._serving.append((self._served_until, rank))
