"""What a store is, as plain data and in words, without reading its shards."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sign_ext.formatting import bytes_in_words
from sign_ext.store.change import merge_changes
from sign_ext.store.lifecycle import entries
from sign_ext.store.manifest import (
    DTYPES,
    LOCK,
    MANIFEST,
    Manifest,
    ShardEntry,
    is_ours,
    read_manifest,
    shard_file,
    tensor_name,
)
from sign_ext.store.shard import fault_of


def describe(folder: str | Path) -> dict[str, Any]:
    """Say what a store is, without reading its shards.

    Args:
        folder: the store, finished or not.

    Returns:
        Plain data: counts, sizes, what is there, and the recipe.

    Raises:
        FileNotFoundError: no manifest.
        ValueError: a manifest of another format.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    known = entries(folder, manifest)
    there = [i for i in range(manifest.shard_count) if (folder / shard_file(i)).is_file()]
    skipped = [each for entry in known.values() for each in entry.skipped]
    return {
        "folder": str(folder),
        "complete": manifest.complete,
        "images": sum(known[i].images for i in there if i in known),
        "of": manifest.images,
        "image_shape": list(manifest.image_shape),
        "snapshots": list(manifest.snapshots),
        "dtype": manifest.dtype,
        "classes": len(manifest.class_names),
        "class_names": list(manifest.class_names),
        "shards": len(there),
        "of_shards": manifest.shard_count,
        "shard_size": manifest.shard_size,
        "bytes": sum(known[i].bytes for i in there if i in known),
        "change": {
            step: {"rms": each.rms, "largest": each.largest}
            for step, each in merge_changes(entry.change for entry in known.values()).items()
        },
        "skipped": [{"index": s.index, "key": s.key, "why": s.why} for s in skipped],
        "choices": manifest.choices,
        "recipe": manifest.recipe,
    }


def in_words(store: dict[str, Any]) -> list[tuple[str, str]]:
    """The main lines of `describe`, as (name, text).

    Args:
        store: what `describe` returned.
    """
    shape = "×".join(map(str, store["image_shape"]))
    steps = ", ".join(map(str, store["snapshots"]))
    state = "complete" if store["complete"] else "unfinished"
    rows = [
        ("store", f"{store['folder']}, {state}"),
        ("images", f"{store['images']:,} of {store['of']:,}, {shape}, {store['dtype']}"),
        ("snapshots", f"K = {steps}"),
        ("classes", ", ".join(store["class_names"][:10]) + (" …" * (store["classes"] > 10))),
        (
            "shards",
            f"{store['shards']:,} of {store['of_shards']:,}, {store['shard_size']:,} images each, "
            f"{bytes_in_words(store['bytes'])}",
        ),
    ]
    rows += [
        (
            f"K = {step}",
            f"changed by {each['rms']:.3g} grey levels rms, at most {each['largest']:.3g}",
        )
        for step, each in store["change"].items()
    ]
    if store["skipped"]:
        first = store["skipped"][0]
        rows.append(("skipped", f"{len(store['skipped'])}, the first: {first['key']}"))
    return rows


# Whether a store is whole: every shard read and compared with the manifest.


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
