"""The file system of a simulated cluster: shards on their way from a rank to their place."""

from __future__ import annotations

import heapq
import math
from collections import deque


class Disk:
    """Writes of many ranks, one at a time for each of them.

    A write is hashed and flushed by its rank, then transferred, then named. The ranks that transfer
    at a moment share the bandwidth equally; requests for names are answered one after the other.

    Args:
        bandwidth: bytes a second for all ranks together.
        link: bytes a second for one.
        answer: seconds that the requests of one shard take, while nobody else's are answered.
    """

    def __init__(self, bandwidth: float, link: float, answer: float) -> None:
        """Begin with nothing under way, at time 0."""
        self._bandwidth, self._link, self._answer = bandwidth, link, answer
        self._free = min(bandwidth, link) == math.inf
        self._hashing: list[tuple[float, int, float]] = []
        self._moving: list[tuple[float, int]] = []
        self._landing: deque[tuple[float, int]] = deque()
        # All that transfer advance alike, so one number says when each of them ends: the bytes
        # that a rank would have moved by now, had it transferred all the time.
        self._moved = self._now = self._answered = 0.0

    def write(self, rank: int, now: float, own: float, size: float) -> None:
        """Begin a write.

        Args:
            rank: whose.
            now: when.
            own: seconds that the rank is busy with it before the transfer.
            size: bytes that are transferred.
        """
        heapq.heappush(self._hashing, (now + own, rank, size))

    def next(self) -> float:
        """When something happens here next; infinite if nothing is under way."""
        landing = self._landing[0][0] if self._landing else math.inf
        hashing = self._hashing[0][0] if self._hashing else math.inf
        return min(landing, hashing, self._arrival() if self._moving else math.inf)

    def advance(self, now: float) -> int | None:
        """Let happen what `next` announced; returns the rank whose shard is in its place, if so.

        Args:
            now: the time that `next` returned.
        """
        if self._landing and self._landing[0][0] <= now:
            return self._landing.popleft()[1]
        if self._hashing and self._hashing[0][0] <= now:
            _, rank, size = heapq.heappop(self._hashing)
            if self._free or not size:
                self._request(rank, now)
            else:
                if self._moving:
                    self._moved += (now - self._now) * self._speed()
                self._now = now
                heapq.heappush(self._moving, (self._moved + size, rank))
        else:
            self._moved, rank = heapq.heappop(self._moving)
            self._now = now
            self._request(rank, now)
        return None

    def _speed(self) -> float:
        return min(self._link, self._bandwidth / len(self._moving))

    def _arrival(self) -> float:
        left = (self._moving[0][0] - self._moved) / self._speed()
        return self._now + max(left, 0.0)

    def _request(self, rank: int, now: float) -> None:
        self._answered = max(self._answered, now) + self._answer
        self._landing.append((self._answered, rank))
