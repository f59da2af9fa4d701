"""Who writes a store: one run at a time (a file lock), of one or several processes (ranks).

Separate runs are kept apart by a lock on a file in the store. The processes of one run share the
shards among them: the launcher (torchrun, or anything that sets its variables) gives each process
its rank and hosts a key-value store. Rank 0 sends "go" when the store is ready to be written, and
every rank sends "done". Everything else goes through the file system.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sign_ext.errors import StoreError, StoreInUseError
from sign_ext.store.manifest import LOCK

# A run that finishes removes its lock file, which fails an attempt made at that moment. Retrying
# for this long tells such a run from one that is still writing.
LOCK_TIMEOUT = 0.5  # seconds

# What flock reports on file systems without locks.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)

DONE_TIMEOUT = timedelta(days=100)  # a process may compute for long before it sends "done"
CALIBRATION = "calibration"  # the message with a step size, for `Ranks.from_first`
REQUIRED_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Hold a store's lock, and remove its file at the end.

    The operating system releases the lock of a killed process; the file it leaves does not keep
    the next run from taking the lock. On a file system without locks a warning is given instead:
    two runs on one store then waste work but do no harm, because they write the same bytes and
    files appear whole.

    Args:
        folder: the store.

    Raises:
        StoreInUseError: another run holds the lock.
    """
    from filelock import FileLock, Timeout

    path = folder / LOCK
    # filelock's substitute where flock is missing, a file that must not exist, would survive a
    # killed process.
    lock = FileLock(path, timeout=LOCK_TIMEOUT, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise StoreInUseError(
            f"{folder} is being written by another run ({_holder(path)}): wait for it, stop it, "
            "or choose another folder"
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        warnings.warn(
            f"{folder} is on a file system without locks ({error.strerror}): a second run on the "
            "same store would not be noticed",
            stacklevel=3,
        )
    try:
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        yield
    finally:
        # Before the release: a run that opened the old file finds it unlinked and opens a new
        # one. After it, another run could already hold the file that is removed.
        path.unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> str:
    """Read who holds the lock from its file."""
    try:
        return path.read_text("utf-8", "replace")[:200].strip() or "unknown"
    except OSError:
        return "unknown"


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run.

    Attributes:
        rank: its number, from 0.
        world: the number of processes.
        messages: the launcher's key-value store, a `torch.distributed.Store`; None in a single
            process.
    """

    rank: int = 0
    world: int = 1
    messages: Any = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Ranks:
        """Read the launcher's variables and connect to its key-value store.

        Args:
            environment: variables; by default this process's.

        Raises:
            ValueError: some of the variables are set, but not all.
        """
        variables = os.environ if environment is None else environment
        world = int(variables.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls()
        if missing := [name for name in REQUIRED_VARIABLES if name not in variables]:
            raise ValueError(
                f"WORLD_SIZE is {world}, but {', '.join(missing)} not set: start the processes "
                "with torchrun, or set what it sets"
            )
        from torch.distributed import rendezvous

        messages, rank, world = next(rendezvous("env://"))
        messages.set_timeout(DONE_TIMEOUT)
        if rank == 0:
            # torchrun keeps its key-value store when it restarts the processes. A "go" of the
            # attempt before would let the others write while this process still cleans up. They
            # ask for it only after loading the network and computing a first step.
            for key in ("go", CALIBRATION, *(f"done {each}" for each in range(world))):
                messages.delete_key(key)
        return cls(rank, world, messages)

    @property
    def first(self) -> bool:
        """Whether this process creates and finishes the store."""
        return self.rank == 0

    def owns(self, shard: int) -> bool:
        """Whether this process makes a shard.

        Args:
            shard: its index.
        """
        return shard % self.world == self.rank

    def send_go(self, ready: bool) -> None:
        """Tell the other processes whether the store is ready; called by the first.

        Args:
            ready: False ends the others with an error.
        """
        if self.messages is not None:
            self.messages.set("go", "yes" if ready else "no")

    def wait_for_go(self) -> None:
        """Wait until the first process has created the store.

        Raises:
            StoreError: it could not.
        """
        if self.messages is not None and self.messages.get("go") != b"yes":
            raise StoreError(f"process {self.rank} stops, because the first one cannot begin")

    def from_first(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return in every process what the first one computes, while the others wait.

        Args:
            name: of the value, used once in a run.
            compute: called in the first process only; returns what JSON can hold.

        Raises:
            StoreError: in the others, if it raised in the first.
        """
        if self.messages is None:
            return compute()
        if not self.first:
            content: dict[str, Any] | None = json.loads(self.messages.get(name))
            if content is None:
                raise StoreError(f"process {self.rank} stops, because the first one cannot begin")
            return content
        try:
            content = compute()
        except BaseException:
            self.messages.set(name, "null")
            raise
        self.messages.set(name, json.dumps(content))
        return content

    def send_done(self) -> None:
        """Tell the first process that all shards of this one are written."""
        if self.messages is not None:
            self.messages.set(f"done {self.rank}", "yes")

    def wait_for_all(self) -> None:
        """Wait until every process is done; called by the first.

        A dead process is the launcher's business: torchrun ends the others.
        """
        if self.messages is not None:
            for rank in range(self.world):
                self.messages.get(f"done {rank}")
