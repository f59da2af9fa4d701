"""Several processes on one store: who this one is, and the two words they exchange.

The launcher (torchrun, or anything that sets its variables) tells each process its number and
hosts a key-value store. The first process says "go" when the store is ready to be written, and
every process says "done". All else is in the file system.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sign_ext.errors import StoreError

PATIENCE = timedelta(days=100)  # a process may be at work for long before it says "done"
NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Ranks:
    """This process among all.

    Attributes:
        rank: its number, from 0.
        world: how many there are.
        words: the launcher's key-value store, a `torch.distributed.Store`; None for one alone.
    """

    rank: int = 0
    world: int = 1
    words: Any = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Ranks:
        """Find out from the launcher's variables.

        Args:
            environment: variables; by default this process's.

        Raises:
            ValueError: some of the variables are there, but not all.
        """
        there = os.environ if environment is None else environment
        world = int(there.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls()
        if missing := [name for name in NEEDED if name not in there]:
            raise ValueError(
                f"WORLD_SIZE is {world}, but {', '.join(missing)} not set: start the processes "
                "with torchrun, or set what it sets"
            )
        from torch.distributed import rendezvous

        words, rank, world = next(rendezvous("env://"))
        words.set_timeout(PATIENCE)
        return cls(rank, world, words)

    @property
    def first(self) -> bool:
        """Whether this process prepares and finishes the store."""
        return self.rank == 0

    def owns(self, shard: int) -> bool:
        """Whether a shard is this process's to make.

        Args:
            shard: its index.
        """
        return shard % self.world == self.rank

    def say_go(self, ready: bool) -> None:
        """Tell the others that the store is ready, or that it will never be; by the first.

        Args:
            ready: which of the two.
        """
        if self.words is not None:
            self.words.set("go", "yes" if ready else "no")

    def wait_for_go(self) -> None:
        """Wait until the first process has said go.

        Raises:
            StoreError: it cannot begin.
        """
        if self.words is not None and self.words.get("go") != b"yes":
            raise StoreError(f"process {self.rank} stops, since the first one cannot begin")

    def say_done(self) -> None:
        """Tell the first process that this one's shards are all there."""
        if self.words is not None:
            self.words.set(f"done {self.rank}", "yes")

    def wait_for_all(self) -> None:
        """Wait until every process is done; by the first.

        A process that dies is the launcher's to notice: torchrun ends the others.
        """
        if self.words is not None:
            for rank in range(self.world):
                self.words.get(f"done {rank}")
