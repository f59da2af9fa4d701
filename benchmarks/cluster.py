"""A job on a cluster, as `cluster_run` simulates it, and what came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Where the time of a rank can go, besides the images themselves at their nominal rate.
WASTE = ("lost", "slowness", "waiting", "start_up", "recheck", "files")
# Rank 0 opens and removes each record at the end.
RECORD_REQUESTS = 2


@dataclass(frozen=True)
class Cluster:
    """A job and the machines it runs on. Seconds, bytes and images throughout.

    Attributes:
        images: in the data set.
        shard_size: images a shard.
        ranks: processes.
        rate: images a second of one process, all K steps of each; the mean over shards.
        image_bytes: written for an image, all snapshots together.
        source_bytes: read for an image.
        hashed_bytes: SHA-256 of an image's pixels, besides that of what is written.
        start_up: seconds from a process's launch to its first image, listing apart.
        restart: the same after a pre-emption, with the wait for machines; None for `start_up`.
        sigma: a shard's time is multiplied by a lognormal number of mean 1 and this σ.
        slow_share: share of the ranks that are slow throughout.
        slow_factor: by which their shards take longer.
        job_interval: mean seconds between events that end the job, whatever its size.
        rank_interval: mean seconds between failures of one rank, each of which ends the job.
        bandwidth: bytes a second that the file system moves for all ranks together.
        link: bytes a second that it moves for one rank.
        hash_rate: bytes a second of SHA-256 in one process.
        trust: a restart looks at sizes only.
        shard_seconds: what writing a shard takes beyond that (fsync), whatever its size.
        operations: creating, renaming and flushing requests to the file system for a shard.
        operation_rate: such requests a second that it answers for all ranks together.
        request_seconds: how long one rank waits for a request to open or to remove a file.
        open_rate: such requests a second that are answered for all ranks together.
        listed: images that each rank lists at each start, to know what the data set is.
        list_seconds: how long one rank takes to list one.
        list_rate: images a second that the file system lists for all ranks together.
    """

    images: int
    shard_size: int
    ranks: int
    rate: float
    image_bytes: float = 0.0
    source_bytes: float = 0.0
    hashed_bytes: float = 0.0
    start_up: float = 0.0
    restart: float | None = None
    sigma: float = 0.0
    slow_share: float = 0.0
    slow_factor: float = 1.0
    job_interval: float = math.inf
    rank_interval: float = math.inf
    bandwidth: float = math.inf
    link: float = math.inf
    hash_rate: float = math.inf
    trust: bool = False
    shard_seconds: float = 0.0
    operations: float = 0.0
    operation_rate: float = math.inf
    request_seconds: float = 0.0
    open_rate: float = math.inf
    listed: float = 0.0
    list_seconds: float = 0.0
    list_rate: float = math.inf

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        above = ["images", "shard_size", "ranks", "rate", "slow_factor", "job_interval", "link"]
        above += ["rank_interval", "bandwidth", "hash_rate", "operation_rate"]
        above += ["open_rate", "list_rate"]
        least = ["image_bytes", "source_bytes", "hashed_bytes", "start_up", "restart", "sigma"]
        least += ["slow_share", "shard_seconds", "operations", "listed", "list_seconds"]
        least += ["request_seconds"]
        for name in (*above, *least):
            value = getattr(self, name)
            if value is not None and not (value > 0 if name in above else 0 <= value < math.inf):
                wanted = "more than 0" if name in above else "0 or more, and finite"
                raise ValueError(f"{name}={value!r}; accepted: {wanted}.")
        if self.slow_share > 1:
            raise ValueError(f"slow_share={self.slow_share!r}; accepted: a share, 0 to 1.")

    @property
    def shards(self) -> int:
        """How many shards the images make."""
        return -(-self.images // self.shard_size)

    @property
    def ideal(self) -> float:
        """Seconds if nothing but the images took time, and they could be divided at will."""
        return self.images / (self.rate * self.ranks)

    @property
    def hazard(self) -> float:
        """Pre-emptions a second."""
        return 1 / self.job_interval + self.ranks / self.rank_interval


@dataclass
class Outcome:
    """How a run went.

    Attributes:
        seconds: from launch to the manifest.
        ideal: seconds if nothing but the images took time.
        ranks: processes.
        preemptions: how often the job was ended.
        waste: rank-seconds by account: "lost" (computed, but not yet in place at a pre-emption),
            "slowness" (shards that took longer than the mean rate says; below 0 where they took
            less), "waiting" (ranks that are done while others are not), "start_up", "recheck"
            (records and checksums of what is there) and "files" (computing stands still for
            writing; listing the data set; rank 0's manifest).
    """

    seconds: float
    ideal: float
    ranks: int
    preemptions: int
    waste: dict[str, float]

    @property
    def efficiency(self) -> float:
        """The ideal time over the time it took."""
        return self.ideal / self.seconds

    @property
    def shares(self) -> dict[str, float]:
        """Each account's share of all rank-seconds; with the efficiency they make 1."""
        return {name: spent / (self.seconds * self.ranks) for name, spent in self.waste.items()}


class HopelessError(RuntimeError):
    """Pre-emptions come so often that no shard is ever finished."""
