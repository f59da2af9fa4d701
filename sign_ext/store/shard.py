"""One shard: written whole or not at all, with a record of what it holds; checked against it."""

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
from sign_ext.files import put_in_place, sha256_of, write_whole
from sign_ext.store.manifest import (
    FORMAT,
    FORMAT_VERSION,
    ShardEntry,
    Skipped,
    is_ours,
    record_file,
    shard_file,
    tensor_name,
)


@dataclass(frozen=True, eq=False)
class ShardContent:
    """What a shard holds.

    Attributes:
        snapshots: number of steps K → p*_K, (n, C, H, W) in the stored dtype, pixel units.
        labels: int64 (n,).
        indices: int64 (n,), positions in the data set.
        keys: what the data set calls each image.
    """

    snapshots: Mapping[int, Tensor]
    labels: Tensor
    indices: Tensor
    keys: tuple[str, ...]

    def tensors(self) -> dict[str, Tensor]:
        """All as tensors on the CPU, as safetensors wants them."""
        text, ends = pack_keys(self.keys)
        images = {tensor_name(k): each for k, each in self.snapshots.items()}
        return _apart(
            {**images, "labels": self.labels, "indices": self.indices}
            | {"keys": text, "key_ends": ends}
        )


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU, contiguous, no two in the same memory, as safetensors wants them."""
    result: dict[str, Tensor] = {}
    taken = set()
    for name, tensor in tensors.items():
        there = tensor.detach().cpu().contiguous()
        if there.untyped_storage().data_ptr() in taken:
            there = there.clone()
        taken.add(there.untyped_storage().data_ptr())
        result[name] = there
    return result


def pack_keys(keys: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Lay texts end to end: uint8 UTF-8, and int64 (n,) where each one ends.

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
    """Return the texts that `pack_keys` laid end to end.

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
    """Write a shard and its record; a process killed here leaves either the shard or no shard.

    The record goes first: a shard that is there always has one. A record whose shard is missing
    or does not fit it means that the shard is to be made.

    Args:
        folder: the store.
        index: of the shard.
        content: what it holds.
        originals: fingerprint of the images it was made from.
        skipped: images that could not be read.
        change: how far the images were moved, by number of steps.

    Returns:
        The record.

    Raises:
        StoreError: the disk is full, or cannot be written; earlier shards are as they were.
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
        record = json.dumps(asdict(entry), ensure_ascii=False)
        write_whole(folder / record_file(index), record + "\n")
        put_in_place(temporary, path)
    except (OSError, SafetensorError) as error:
        size = sum(each.numel() * each.element_size() for each in tensors.values())
        raise StoreError(_why_not(path, size, error)) from error
    finally:
        _remove(temporary)
    return entry


def _remove(path: Path) -> None:
    # A failing disk may refuse even this; the error under way says more.
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def _why_not(path: Path, size: int, error: Exception) -> str:
    kept = "The shards that are there are kept; run the same command again to go on"
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        return f"{path} cannot be written ({error}). {kept} once the folder can be written"
    if free < size or "os error 28" in str(error) or getattr(error, "errno", None) == 28:
        return (
            f"the disk is full: {path} needs {size:,} bytes, {free:,} are free in {path.parent}. "
            f"{kept} once there is room"
        )
    return f"{path} cannot be written ({error}). {kept} once that is mended"


def read_record(folder: Path, index: int) -> ShardEntry | None:
    """Read a shard's record; None if there is none, or none that can be read.

    Args:
        folder: the store.
        index: of the shard.
    """
    try:
        return ShardEntry.from_dict(json.loads((folder / record_file(index)).read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def fault_of(folder: Path, index: int, entry: ShardEntry, *, checksum: bool = True) -> str | None:
    """Say what is wrong with a shard, None if nothing is.

    Args:
        folder: the store.
        index: of the shard.
        entry: what it should be.
        checksum: read it all; else look at its size only.
    """
    path = folder / shard_file(index)
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            return f"{path.name} has {size:,} bytes, not {entry.bytes:,}: it is truncated or not it"
        if checksum and (found := sha256_of(path)) != entry.sha256:
            return f"{path.name} is damaged: its SHA-256 is {found}, not {entry.sha256}"
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return None


def remove_all(folder: Path) -> None:
    """Remove every shard, record and leftover of a store; nothing else in the folder.

    Args:
        folder: the store.
    """
    for path in _files(folder):
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path, records: bool = False) -> None:
    """Remove what killed writers left, and records where a manifest has replaced them.

    Args:
        folder: the store.
        records: remove the records too.
    """
    for path in _files(folder):
        if path.suffix == ".tmp" or (records and path.suffix == ".json"):
            path.unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [folder / each.name for each in entries if is_ours(each.name)]
