"""Simulate `sign-ext transform` on many processes: how long it takes, and where time is wasted.

The simulation follows the store. Shard i belongs to rank i mod ranks. A rank computes its shards in
order and writes them in the background: while a shard is hashed, written and renamed, the next one
is computed, and a computed shard waits until the previous one is written. A pre-emption ends all
ranks (torchrun restarts the whole job). After it they start up, list the data set, check the
finished shards and compute the missing ones. When all ranks are done, rank 0 reads the records and
writes the manifest.

This is a discrete-event simulation; every second of every rank is booked to one category.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

import numpy as np
from cluster import RECORD_REQUESTS, WASTE, Cluster, HopelessError, Outcome
from cluster_disk import Disk

# Consecutive attempts without a finished shard after which a run is given up.
HOPELESS = 1000


@dataclass
class _Run:
    """The state of a run that survives a pre-emption."""

    cluster: Cluster
    times: list[float]  # seconds to compute each shard
    done: np.ndarray  # finished shards of each rank
    bytes_written: np.ndarray  # by each rank
    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(WASTE, 0.0))

    def size(self, shard: int) -> int:
        """Images of a shard; the last one may be smaller."""
        return min(self.cluster.shard_size, self.cluster.images - shard * self.cluster.shard_size)


def simulate(cluster: Cluster, seed: int = 0) -> Outcome:
    """Simulate a job once.

    Args:
        cluster: The job and its machines.
        seed: Seed of stragglers and pre-emptions; equal seeds give equal results.

    Returns:
        The outcome. The ideal rank-seconds and all waste add up to ranks × seconds.

    Raises:
        HopelessError: Too many consecutive attempts were pre-empted without a finished shard.

    Example:
        >>> simulate(Cluster(images=100, shard_size=10, ranks=4, rate=2.0)).seconds
        15.0
    """
    # Separate random streams: the stragglers do not depend on the pre-emptions.
    noise, slow, ends = np.random.default_rng(seed).spawn(3)
    run = _Run(
        cluster,
        _shard_seconds(cluster, noise, slow).tolist(),
        np.zeros(cluster.ranks, dtype=np.int64),
        np.zeros(cluster.ranks),
    )
    now, preemptions, hopeless = 0.0, 0, 0
    while True:
        until = now + ends.exponential() / cluster.hazard if cluster.hazard else math.inf
        before = int(run.done.sum())
        end = _attempt(run, now, until, again=preemptions > 0)
        if end is not None:
            return Outcome(end, cluster.ideal, cluster.ranks, preemptions, run.spent)
        now, preemptions = until, preemptions + 1
        hopeless = hopeless + 1 if int(run.done.sum()) == before else 0
        if hopeless == HOPELESS:
            raise HopelessError(
                f"{HOPELESS} consecutive attempts were pre-empted, on average after "
                f"{1 / cluster.hazard:.3g} s, without a finished shard: try smaller shards, fewer "
                "ranks or a shorter start-up"
            )


def _shard_seconds(
    cluster: Cluster, noise: np.random.Generator, slow: np.random.Generator
) -> np.ndarray:
    """Seconds that each shard takes its rank to compute."""
    sizes = np.full(cluster.shards, cluster.shard_size, dtype=np.float64)
    sizes[-1] = cluster.images - (cluster.shards - 1) * cluster.shard_size
    factors = np.exp(cluster.sigma * noise.standard_normal(cluster.shards) - cluster.sigma**2 / 2)
    of_rank = np.ones(cluster.ranks)
    of_rank[slow.permutation(cluster.ranks)[: round(cluster.slow_share * cluster.ranks)]] = (
        cluster.slow_factor
    )
    return sizes / cluster.rate * factors * of_rank[np.arange(cluster.shards) % cluster.ranks]


def _attempt(run: _Run, launched: float, until: float, *, again: bool) -> float | None:
    """Run from a launch to the end, which is returned, or to the pre-emption at `until`."""
    c, spent = run.cluster, run.spent
    delay = c.start_up if not again or c.restart is None else c.restart
    started = launched + delay
    listed = started + c.listed * max(c.list_seconds, c.ranks / c.list_rate)
    spent["start_up"] += c.ranks * (min(started, until) - launched)
    spent["files"] += c.ranks * max(0.0, min(listed, until) - started)
    if listed >= until:
        return None
    opened = -(-c.shards // c.ranks)  # each rank opens the records of its own shards
    scan = max(opened * c.request_seconds, c.ranks * opened / c.open_rate)
    speed = min(c.hash_rate, c.link, c.bandwidth / c.ranks)
    ready = listed + scan + (np.zeros(c.ranks) if c.trust else run.bytes_written / speed)
    spent["recheck"] += float(np.sum(np.minimum(ready, until) - listed))
    free = _work(run, ready, until)
    last = float(free.max())
    spent["waiting"] += float(np.sum(min(last, until) - free[free < until]))
    if last >= until:
        return None
    end = last + c.shards * RECORD_REQUESTS * c.request_seconds
    spent["files"] += c.ranks * (min(end, until) - last)
    return end if end < until else None


def _work(run: _Run, ready: np.ndarray, until: float) -> np.ndarray:
    """Compute the missing shards; returns when each rank is done, infinity if not by `until`."""
    c = run.cluster
    disk = Disk(c.bandwidth, c.link, c.operations / c.operation_rate)
    ranks = _Ranks(run, disk)
    for rank, now in enumerate(ready.tolist()):
        if now < until:
            ranks.compute(rank, now)
    while True:
        soon = disk.next()
        now = min(ranks.next(), soon)
        if now >= until:
            break
        if soon <= now:
            finished = disk.advance(now)
            if finished is not None:
                ranks.written(finished, now)
        else:
            ranks.computed(now)
    ranks.stop(until)
    return np.array(ranks.free)


class _Ranks:
    """The state of each rank: the shard it computes, and the one being written.

    Args:
        run: The finished shards and the booked time.
        disk: The file system that shards are written to.
    """

    def __init__(self, run: _Run, disk: Disk) -> None:
        """Start with all ranks idle."""
        c = run.cluster
        self.run, self.disk, self.shards = run, disk, c.shards
        self.free = [math.inf] * c.ranks  # when each rank ran out of work
        self._shard = [int(rank + done * c.ranks) for rank, done in enumerate(run.done)]
        self._since = [math.inf] * c.ranks  # when each rank started that shard, or started to wait
        self._waits = [
            False
        ] * c.ranks  # the shard is computed, but the previous one not yet written
        self._writing = [-1] * c.ranks
        self._computing: list[tuple[float, int]] = []
        self._hash_seconds = (c.image_bytes + c.hashed_bytes) / c.hash_rate
        self._moved = c.image_bytes + c.source_bytes

    def next(self) -> float:
        """The time at which the next shard is computed."""
        return self._computing[0][0] if self._computing else math.inf

    def compute(self, rank: int, now: float) -> None:
        """Start a rank's next shard; if there is none, it is done or waits for its last write."""
        self._since[rank] = now
        if self._shard[rank] < self.shards:
            heapq.heappush(self._computing, (now + self.run.times[self._shard[rank]], rank))
        elif self._writing[rank] < 0:
            self.free[rank] = now

    def computed(self, now: float) -> None:
        """Handle the end of a computation."""
        rank = heapq.heappop(self._computing)[1]
        if self._writing[rank] < 0:
            self._write(rank, now)
        else:
            self._since[rank], self._waits[rank] = now, True

    def written(self, rank: int, now: float) -> None:
        """Handle the end of a write."""
        run, shard = self.run, self._writing[rank]
        images = run.size(shard)
        run.done[rank] += 1
        run.bytes_written[rank] += images * run.cluster.image_bytes
        run.spent["slowness"] += run.times[shard] - images / run.cluster.rate
        self._writing[rank] = -1
        if self._waits[rank]:
            run.spent["files"] += now - self._since[rank]
            self._waits[rank] = False
            self._write(rank, now)
        elif self._shard[rank] >= self.shards:
            run.spent["files"] += now - self._since[rank]
            self.free[rank] = now

    def stop(self, until: float) -> None:
        """Book the work in progress at a pre-emption; after a finished run there is none."""
        spent, times = self.run.spent, self.run.times
        for rank, since in enumerate(self._since):
            if self.free[rank] < math.inf or since == math.inf:
                continue
            if self._writing[rank] >= 0:
                spent["lost"] += times[self._writing[rank]]
            if self._waits[rank]:
                spent["lost"] += times[self._shard[rank]]
            computing = self._shard[rank] < self.shards and not self._waits[rank]
            spent["lost" if computing else "files"] += until - since

    def _write(self, rank: int, now: float) -> None:
        images = self.run.size(self._shard[rank])
        own = self.run.cluster.shard_seconds + images * self._hash_seconds
        self.disk.write(rank, now, own, images * self._moved)
        self._writing[rank] = self._shard[rank]
        self._shard[rank] += self.run.cluster.ranks
        self.compute(rank, now)
