"""Files appear whole or not at all: written beside their place, flushed, then renamed into it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor


def put_in_place(temporary: Path, path: Path) -> None:
    """Give a written file its name, in one step, once its content is on the disk.

    Args:
        temporary: the written file, in `path`'s folder.
        path: its name from now on; whatever was there is replaced.
    """
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    # The new name too: else a power cut could bring the old one back.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name to write to; it becomes `path` when the block ends without an error.

    Args:
        path: where the file appears.
    """
    # The process in the name: another one may be writing the same file.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        put_in_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file that a reader never sees half of.

    Args:
        path: where it appears; one that is there is replaced.
        content: its bytes, or text that is written as UTF-8.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def sha256_of(path: Path) -> str:
    """A file's SHA-256, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# A run's files: tensors as safetensors and settings as JSON, each whole or not there.


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and text metadata as one safetensors file, atomically.

    Args:
        path: the file; whatever was there is replaced in one step.
        tensors: name → tensor on any device, in any memory format. Names may share storage: each
            is written out in full.
        metadata: name → text, kept in the file's header.
    """
    from safetensors.torch import save_file

    # clone() also parts tied weights, which safetensors refuses to write twice.
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    with replacing(path) as temporary:
        save_file(plain, temporary, metadata=dict(metadata))


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically; NaN and Inf are refused."""
    write_whole(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
