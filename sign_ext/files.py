"""Write files atomically: to a temporary name in the same folder, flushed, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SURROGATES = re.compile("[\ud800-\udfff]")


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


def json_text(value: Any, **options: Any) -> str:
    """Write a value as JSON text that is valid UTF-8, with characters as they are.

    The bytes of file names that are not UTF-8 are surrogates in Python's strings. They become
    escapes, which `json.loads` turns back into the same strings.

    Args:
        value: plain data.
        **options: of `json.dumps`.

    Example:
        >>> json_text({"é": "caf\\udce9"})
        '{"é": "caf\\\\udce9"}'
    """
    text = json.dumps(value, ensure_ascii=False, **options)
    return _SURROGATES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


@contextmanager
def utf_8_path(path: Path) -> Iterator[Path]:
    """Yield a path, or a temporary link to it if it is not UTF-8, for libraries that refuse those.

    Args:
        path: an existing file or folder.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory(prefix="sign-ext-") as folder:
            link = Path(folder) / "link"
            link.symlink_to(path.absolute(), target_is_directory=path.is_dir())
            yield link
    else:
        yield path


def open_tensors(path: Path) -> Any:
    """Open a safetensors file for reading, as `safetensors.safe_open` does.

    Args:
        path: the file, of any name; it stays mapped until the result is closed.

    Raises:
        safetensors.SafetensorError: it is not a whole safetensors file.
    """
    from safetensors import safe_open

    with utf_8_path(path) as readable:
        return safe_open(readable, framework="pt")


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
