"""Files: written atomically, and read as if somebody else had written them.

Writing goes to a temporary name in the same folder, is flushed, then renamed. Reading opens regular
files only, because opening a named pipe waits for ever and a device such as /dev/zero never ends,
and it limits the size and the nesting of JSON.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import reprlib
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

_SURROGATES = re.compile("[\ud800-\udfff]")

MAX_JSON_BYTES = 1 << 30  # the manifest of millions of shards takes less
MAX_JSON_DEPTH = 100  # of objects and lists in one another; this package writes about ten

_SPECIAL = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


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
        OSError: it is not a regular file, or a link to one.
    """
    from safetensors import safe_open

    require_regular(path)
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
    """A file's SHA-256, 64 hexadecimal digits.

    Raises:
        OSError: the file cannot be read, or is not a regular file.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file, or a link to one, for reading; never wait for anything else.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be opened, or is a named pipe, a folder, a device or a socket.
    """
    # Without O_NONBLOCK, opening a named pipe waits until somebody writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _require_regular(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def require_regular(path: Path) -> None:
    """Raise OSError unless a path names a regular file, or a link to one.

    Args:
        path: the file; for libraries that open it themselves.
    """
    _require_regular(path.stat().st_mode, path)


def _require_regular(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _SPECIAL if is_kind(mode)), "a special file")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))


def read_json(path: Path, name: str | None = None) -> Any:
    """Read a JSON file that somebody else may have written.

    Args:
        path: the file.
        name: what an error message calls it; by default its path.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is not a regular file, too large or not JSON; the message names it.
        OSError: it cannot be read.
    """
    name = str(path) if name is None else name
    try:
        with open_regular(path) as file:
            text = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise ValueError(f"{name} cannot be read: {error.strerror}.") from error
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"{name} has more than {MAX_JSON_BYTES:,} bytes: it is another file.")
    return parse_json(text, name)


def parse_json(text: str | bytes, where: str) -> Any:
    """Parse JSON that somebody else may have written.

    Args:
        text: JSON, as UTF-8 if it is bytes.
        where: the file, and the place in it, for the error messages.

    Raises:
        ValueError: it is not JSON, holds NaN or Infinity, or is nested too deeply.

    Example:
        >>> parse_json('{"images": NaN}', "manifest.json")
        Traceback (most recent call last):
        ValueError: manifest.json is not valid JSON: it holds NaN.
    """

    def refuse(constant: str) -> Any:
        raise ValueError(f"it holds {constant}")

    too_deep = (
        f"{where} is nested more than {MAX_JSON_DEPTH} levels deep: it was damaged or edited."
    )
    try:
        content = json.loads(
            text.decode("utf-8") if isinstance(text, bytes) else text, parse_constant=refuse
        )
    except RecursionError:
        raise ValueError(too_deep) from None
    except ValueError as error:
        raise ValueError(f"{where} is not valid JSON: {error}.") from error
    level = [content]
    for _ in range(MAX_JSON_DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return content
    raise ValueError(too_deep)


def require_schema(schema: Any, content: Any, where: str) -> None:
    """Raise unless content that was read back fits a schema.

    Args:
        schema: a pydantic model. This module does not import pydantic, which only the harness
            needs.
        content: parsed JSON.
        where: the file, and the place in it; begins the error message.

    Raises:
        ValueError: the message names the first fields that do not fit, what they hold and what is
            accepted.
    """
    try:
        schema.model_validate(content)
    except ValueError as error:  # pydantic's ValidationError is one
        lines = getattr(error, "errors", None)
        if lines is None:
            raise
        faults = [_fault(each) for each in lines(include_url=False)]
        shown = "; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if faults[3:] else "")
        raise ValueError(f"{where}: {shown}") from error


def _fault(error: Mapping[str, Any]) -> str:
    """Put one of pydantic's errors into words."""
    field = field_name([each for each in error["loc"] if each != "[key]"])
    if error["type"] == "missing":
        return f"{field} is missing"
    accepted = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{field} is {_SHORT.repr(error['input'])}; accepted: {accepted}"


def field_name(parts: Sequence[str | int]) -> str:
    """Write a field's place in JSON as people do.

    Args:
        parts: keys and positions, from the outside.

    Example:
        >>> field_name(["shards", 3, "sha256"])
        'shards[3].sha256'
    """
    text = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in parts)
    return text.removeprefix(".") or "its content"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxdict = _SHORT.maxlist = 4
