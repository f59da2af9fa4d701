"""One run at a time writes a store: a lock that the system lets go of when its holder dies."""

from __future__ import annotations

import fcntl
import os
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sign_ext.errors import StoreError, StoreInUseError
from sign_ext.store.manifest import LOCK


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a store's lock, and remove its file at the end.

    A killed holder's file stays; its lock does not, so the next run takes it. Where the file
    system has no locks a warning says so: two runs on one store then only waste work, since they
    write the same bytes and files appear whole.

    Args:
        folder: the store.

    Raises:
        StoreInUseError: another process holds it.
    """
    path = folder / LOCK
    descriptor = _locked(path)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        # Before it is let go of: who opened the old file notices that its name is gone.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(path: Path) -> int:
    """Open and lock the file that bears the lock's name."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise StoreInUseError(
                f"{path.parent} is being written by another run ({holder or 'unknown'}): wait for "
                "it, stop it, or choose another folder"
            ) from None
        except OSError as error:
            warnings.warn(
                f"{path.parent} lies on a file system without locks ({error.strerror}): a second "
                "run on the same store would not be noticed",
                stacklevel=4,
            )
            return descriptor
        if _bears_its_name(descriptor, path):
            return descriptor
        os.close(descriptor)  # its holder removed it between our opening and our lock


def _bears_its_name(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


# Several processes on one store: who this one is, and the two words they exchange.
#
# The launcher (torchrun, or anything that sets its variables) tells each process its number and
# hosts a key-value store. The first process says "go" when the store is ready to be written, and
# every process says "done". All else is in the file system.


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
