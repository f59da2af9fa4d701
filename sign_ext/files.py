"""Write files atomically: to a temporary name in the same folder, flushed, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file of which a reader never sees half.

    Args:
        path: the file; an existing one is replaced.
        content: its bytes, or text to be written as UTF-8.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically; NaN and Inf are refused."""
    write_whole(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name to write to; it becomes `path` when the block ends without an error.

    Args:
        path: the file; an existing one is replaced.
    """
    # The process id is in the name because another process may be writing the same file.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        put_in_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def put_in_place(temporary: Path, path: Path) -> None:
    """Rename a written file to its final name, once its content is on the disk.

    Args:
        temporary: the written file, in `path`'s folder.
        path: its final name; a file of that name is replaced.
    """
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    # The folder too: after a power cut, the old name could be back.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sha256_of(path: Path) -> str:
    """A file's SHA-256, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
