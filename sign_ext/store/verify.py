"""Whether a store is whole: every shard read and compared with the manifest."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sign_ext.store.layout import DTYPES, LOCK, MANIFEST, is_ours, shard_file, tensor_name
from sign_ext.store.lifecycle import entries
from sign_ext.store.manifest import Manifest, ShardEntry, read_manifest
from sign_ext.store.shard import fault_of


@dataclass(frozen=True)
class Verdict:
    """What `verify` found.

    Attributes:
        shards: that the store should have.
        whole: that are there, with the checksum and the tensors that the manifest says.
        faults: one line for each thing that is wrong; none means that the store is whole.
        notes: what is not wrong, but not of the store either.
        bytes: read.
    """

    shards: int
    whole: int
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    bytes: int


def verify(folder: str | Path, *, progress: Callable[[int, int], None] | None = None) -> Verdict:
    """Read every shard and compare it with the manifest.

    Args:
        folder: the store, finished or not.
        progress: called with (shards read, all shards).

    Returns:
        What is wrong; running the store's `sign-ext transform` again mends it all.

    Raises:
        FileNotFoundError: no manifest.
        ValueError: a manifest of another format.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    known = entries(folder, manifest)
    faults, whole, size = [], 0, 0
    if not manifest.complete:
        faults.append(f"{MANIFEST} lists no shards yet: the store is unfinished")
    look = partial(_look, folder, manifest, known)
    # SHA-256 lets go of the interpreter: a few shards at a time.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(look, range(manifest.shard_count))
        for index, fault in enumerate(results):
            if fault is None:
                whole += 1
                size += known[index].bytes
            else:
                faults.append(fault)
            if progress is not None:
                progress(index + 1, manifest.shard_count)
    return Verdict(manifest.shard_count, whole, tuple(faults), _strangers(folder, manifest), size)


def _look(folder: Path, manifest: Manifest, known: dict[int, ShardEntry], index: int) -> str | None:
    """What is wrong with one shard."""
    if index not in known:
        there = (folder / shard_file(index)).exists()
        return f"{shard_file(index)} " + ("has no record" if there else "is missing")
    return fault_of(folder, index, known[index]) or _misfit(folder, manifest, known[index], index)


def _misfit(folder: Path, manifest: Manifest, entry: ShardEntry, index: int) -> str | None:
    """What a shard with the right checksum has that the manifest does not say."""
    from safetensors import safe_open

    wanted: dict[str, Any] = {
        tensor_name(step): [entry.images, *manifest.image_shape] for step in manifest.snapshots
    }
    with safe_open(folder / shard_file(index), framework="pt") as file:
        for name, shape in wanted.items():
            if name not in file.keys():  # noqa: SIM118  a safe_open is no mapping
                return f"{shard_file(index)} has no {name}"
            found = file.get_slice(name)
            if found.get_shape() != shape:
                return f"{shard_file(index)}: {name} is {found.get_shape()}, not {shape}"
            if file.get_tensor(name)[:0].dtype != DTYPES[manifest.dtype]:
                return f"{shard_file(index)}: {name} is not {manifest.dtype}"
    return None


def _strangers(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    """Files that are no part of the store."""
    shards = {shard_file(index) for index in range(manifest.shard_count)}
    found = []
    for name in sorted(os.listdir(folder)):
        if name == LOCK:
            found.append(f"{LOCK} is there: a run is writing, or was killed")
        elif name.endswith(".tmp") and is_ours(name):
            found.append(f"{name} was left by a killed run; the next one removes it")
        elif name not in shards and name != MANIFEST and not is_ours(name):
            found.append(f"{name} is not of this store")
        elif name.endswith(".safetensors") and name not in shards:
            found.append(f"{name} is beyond the {manifest.shard_count} shards")
    return tuple(found)
