"""One shard: written atomically with a record of what it holds, and verified against it."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sign_ext.change import Change
from sign_ext.errors import StoreError
from sign_ext.files import json_text, put_in_place, sha256_of, write_whole
from sign_ext.store.manifest import (
    FORMAT,
    FORMAT_VERSION,
    ShardEntry,
    Skipped,
    is_store_file,
    record_file,
    shard_file,
    tensor_name,
)


@dataclass(frozen=True, eq=False)
class ShardContent:
    """The content of a shard.

    Attributes:
        snapshots: number of steps K → p*_K, (n, C, H, W) in the stored dtype, pixel units.
        labels: int64 (n,).
        indices: int64 (n,), positions in the data set.
        keys: each image's name in the data set.
    """

    snapshots: Mapping[int, Tensor]
    labels: Tensor
    indices: Tensor
    keys: tuple[str, ...]

    def tensors(self) -> dict[str, Tensor]:
        """Return everything as tensors on the CPU, as safetensors requires."""
        text, ends = pack_keys(self.keys)
        images = {tensor_name(k): each for k, each in self.snapshots.items()}
        return _unshared(
            {**images, "labels": self.labels, "indices": self.indices}
            | {"keys": text, "key_ends": ends}
        )


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Move tensors to the CPU, contiguous, and copy those that share memory with another."""
    result: dict[str, Tensor] = {}
    storages = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        if plain.untyped_storage().data_ptr() in storages:
            plain = plain.clone()
        storages.add(plain.untyped_storage().data_ptr())
        result[name] = plain
    return result


def pack_keys(keys: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Concatenate texts: uint8 UTF-8, and int64 (n,) with the end of each.

    Args:
        keys: texts.

    Example:
        >>> text, ends = pack_keys(("a", "né"))
        >>> unpack_keys(text, ends)
        ('a', 'né')
    """
    encoded = [key.encode("utf-8", "surrogateescape") for key in keys]
    ends = torch.tensor(np.cumsum([len(each) for each in encoded], dtype=np.int64))
    return torch.tensor(bytearray(b"".join(encoded)), dtype=torch.uint8), ends


def unpack_keys(text: Tensor, ends: Tensor) -> tuple[str, ...]:
    """Undo `pack_keys`.

    Args:
        text: uint8.
        ends: int64 (n,).
    """
    joined = text.numpy().tobytes()
    stops = ends.tolist()
    starts = [0, *stops[:-1]] if stops else []
    return tuple(
        joined[a:b].decode("utf-8", "surrogateescape") for a, b in zip(starts, stops, strict=True)
    )


def write_shard(
    folder: Path,
    index: int,
    content: ShardContent,
    *,
    originals: str | None = None,
    skipped: tuple[Skipped, ...] = (),
    change: Mapping[int, Change] | None = None,
) -> ShardEntry:
    """Write a shard and its record. A process killed here leaves a whole shard or none.

    The record is in place before the shard, so every shard has one. A record whose shard is
    missing or does not match means that the shard must be made.

    Args:
        folder: the store.
        index: of the shard.
        content: of the shard.
        originals: fingerprint of the images it was made from.
        skipped: images that could not be read.
        change: number of steps → how far SIGN moved the images.

    Returns:
        The record.

    Raises:
        StoreError: the disk is full or cannot be written. Earlier shards are unchanged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = folder / shard_file(index)
    temporary = folder / f"{path.name}.{socket.gethostname()}-{os.getpid()}.tmp"
    tensors = content.tensors()
    try:
        save_file(tensors, temporary, metadata={"format": f"{FORMAT}/{FORMAT_VERSION}"})
        entry = ShardEntry(
            images=len(content.labels),
            bytes=temporary.stat().st_size,
            sha256=sha256_of(temporary),
            originals=originals,
            skipped=skipped,
            change=dict(change or {}),
        )
        record = json_text(asdict(entry))
        write_whole(folder / record_file(index), record + "\n")
        put_in_place(temporary, path)
    except (OSError, SafetensorError) as error:
        size = sum(each.numel() * each.element_size() for each in tensors.values())
        raise StoreError(_write_failure(path, size, error)) from error
    finally:
        _remove(temporary)
    return entry


def _remove(path: Path) -> None:
    # On a failing disk this fails too; the error already being raised says more.
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def _write_failure(path: Path, size: int, error: Exception) -> str:
    kept = "Finished shards are kept; run the same command again to continue"
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        return f"{path} cannot be written ({error}). {kept} once the folder can be written"
    if free < size or "os error 28" in str(error) or getattr(error, "errno", None) == 28:
        return (
            f"the disk is full: {path} needs {size:,} bytes, and {free:,} are free in "
            f"{path.parent}. {kept} once there is space"
        )
    return f"{path} cannot be written ({error}). {kept} once that is fixed"


def read_record(folder: Path, index: int) -> ShardEntry | None:
    """Read a shard's record; None if it is missing or unreadable.

    Args:
        folder: the store.
        index: of the shard.
    """
    try:
        return ShardEntry.from_dict(json.loads((folder / record_file(index)).read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def fault_of(folder: Path, index: int, entry: ShardEntry, *, checksum: bool = True) -> str | None:
    """Return what is wrong with a shard, or None.

    Args:
        folder: the store.
        index: of the shard.
        entry: what it should be.
        checksum: False compares only the file's size, without reading it.
    """
    path = folder / shard_file(index)
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            return (
                f"{path.name} has {size:,} bytes, not {entry.bytes:,}: it is truncated or another "
                "file"
            )
        if checksum and (found := sha256_of(path)) != entry.sha256:
            return f"{path.name} is damaged: its SHA-256 is {found}, not {entry.sha256}"
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return None


def remove_all(folder: Path) -> None:
    """Remove every shard, record and temporary file of a store, and nothing else.

    Args:
        folder: the store.
    """
    for path in _files(folder):
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path, records: bool = False) -> None:
    """Remove temporary files of killed writers and, on request, the records.

    Args:
        folder: the store.
        records: remove them too, because the manifest now lists the shards.
    """
    for path in _files(folder):
        if path.suffix == ".tmp" or (records and path.suffix == ".json"):
            path.unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [folder / each.name for each in entries if is_store_file(each.name)]
