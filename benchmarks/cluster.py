"""The data types of the cluster simulation (`cluster_run`): a job and its outcome."""

from __future__ import annotations

import math
from dataclasses import dataclass

# The categories of a rank's time beyond computing images at the nominal rate.
WASTE = ("lost", "slowness", "waiting", "start_up", "recheck", "files")
# Rank 0 opens and removes each record at the end.
RECORD_REQUESTS = 2


@dataclass(frozen=True)
class Cluster:
    """A job and the machines it runs on. Seconds, bytes and images throughout.

    Attributes:
        images: Images in the data set.
        shard_size: Images per shard.
        ranks: Processes.
        rate: Images per second of one process, with all K steps of each; the mean over shards.
        image_bytes: Bytes written per image, all snapshots together.
        source_bytes: Bytes read per image.
        hashed_bytes: Bytes of an image's pixels that are hashed in addition to what is written.
        start_up: Seconds from the launch of a process to its first image, without listing.
        restart: The same after a pre-emption, with the wait for machines; None for `start_up`.
        sigma: σ of the lognormal factor of mean 1 on each shard's time.
        slow_share: Share of the ranks that are slow during the whole run.
        slow_factor: Factor on the time of their shards.
        job_interval: Mean seconds between events that end the job, independent of its size.
        rank_interval: Mean seconds between failures of one rank, each of which ends the job.
        bandwidth: Bytes per second of the file system, for all ranks together.
        link: Bytes per second of the file system, for one rank.
        hash_rate: Bytes per second of SHA-256 in one process.
        trust: A restart checks the sizes of shards only, not their checksums.
        shard_seconds: Fixed additional seconds to write a shard (fsync).
        operations: Create, rename and flush requests to the file system per shard.
        operation_rate: Such requests per second, for all ranks together.
        request_seconds: Seconds that one rank waits for a request to open or remove a file.
        open_rate: Such requests per second, for all ranks together.
        listed: Images that each rank lists at each start, to index the data set.
        list_seconds: Seconds that one rank takes to list one image.
        list_rate: Images per second that the file system lists, for all ranks together.
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
        """Validate the values."""
        positive = ["images", "shard_size", "ranks", "rate", "slow_factor", "job_interval", "link"]
        positive += ["rank_interval", "bandwidth", "hash_rate", "operation_rate"]
        positive += ["open_rate", "list_rate"]
        nonnegative = [
            "image_bytes",
            "source_bytes",
            "hashed_bytes",
            "start_up",
            "restart",
            "sigma",
        ]
        nonnegative += ["slow_share", "shard_seconds", "operations", "listed", "list_seconds"]
        nonnegative += ["request_seconds"]
        for name in (*positive, *nonnegative):
            value = getattr(self, name)
            if value is not None and not (value > 0 if name in positive else 0 <= value < math.inf):
                accepted = "more than 0" if name in positive else "0 or more, and finite"
                raise ValueError(f"{name}={value!r}; accepted: {accepted}.")
        if self.slow_share > 1:
            raise ValueError(f"slow_share={self.slow_share!r}; accepted: a share, 0 to 1.")

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.images // self.shard_size)

    @property
    def ideal(self) -> float:
        """Seconds if only the images took time and could be divided evenly."""
        return self.images / (self.rate * self.ranks)

    @property
    def hazard(self) -> float:
        """Pre-emptions per second."""
        return 1 / self.job_interval + self.ranks / self.rank_interval


@dataclass
class Outcome:
    """The result of a run.

    Attributes:
        seconds: Time from launch to the manifest.
        ideal: Seconds if only the images took time.
        ranks: Processes.
        preemptions: How often the job was pre-empted.
        waste: Rank-seconds by category: "lost" (computed, but not yet written at a pre-emption),
            "slowness" (shards that took longer than the mean rate; negative if they took less),
            "waiting" (ranks that are done while others are not), "start_up", "recheck" (reading
            records and checksums of finished shards) and "files" (computation blocked by writing,
            listing the data set, and rank 0's manifest).
    """

    seconds: float
    ideal: float
    ranks: int
    preemptions: int
    waste: dict[str, float]

    @property
    def efficiency(self) -> float:
        """The ideal time divided by the actual time."""
        return self.ideal / self.seconds

    @property
    def shares(self) -> dict[str, float]:
        """Each category's share of all rank-seconds; with the efficiency they sum to 1."""
        return {name: spent / (self.seconds * self.ranks) for name, spent in self.waste.items()}


class HopelessError(RuntimeError):
    """Pre-emptions are so frequent that no shard is ever finished."""
