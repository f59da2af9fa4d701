"""One run at a time writes a store: a lock that the system lets go of when its holder dies."""

from __future__ import annotations

import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sign_ext.errors import StoreInUseError
from sign_ext.store.layout import LOCK


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
