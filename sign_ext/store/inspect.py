"""Looking at a store: a description from its manifest, and verification of every shard."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sign_ext.files import open_tensors
from sign_ext.formatting import bytes_in_words, counted
from sign_ext.set_aside import ASIDE, DISCARDED
from sign_ext.store.lifecycle import shard_entries
from sign_ext.store.manifest import (
    LOCK,
    MANIFEST,
    Manifest,
    ShardEntry,
    files_by_shard,
    is_store_file,
    is_temporary_file,
    read_manifest,
    shard_file,
)
from sign_ext.store.shard import fault_of, merge_changes, structure_fault, values_fault

MISSING_NAMED = 100  # missing shards that `verify` names


def describe(folder: str | Path) -> dict[str, Any]:
    """Describe a store without reading its shards.

    Args:
        folder: the store, finished or not.

    Returns:
        Plain data: counts, sizes, what is made so far, and the recipe.

    Raises:
        FileNotFoundError: there is no manifest.
        ValueError: the manifest has another format.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    broken: dict[int, str] = {}
    known = shard_entries(folder, manifest, faults=broken)
    for fault in broken.values():
        warnings.warn(f"{folder}: {fault}", stacklevel=2)
    made = files_by_shard(folder, manifest, ".safetensors")
    skipped = [each for entry in known.values() for each in entry.skipped]
    return {
        "folder": str(folder),
        "complete": manifest.complete,
        "images": sum(known[i].images for i in made if i in known),
        "of": manifest.images,
        "image_shape": list(manifest.image_shape),
        "snapshots": list(manifest.snapshots),
        "dtype": manifest.dtype,
        "classes": len(manifest.class_names),
        "class_names": list(manifest.class_names),
        **({"targets": asdict(manifest.targets)} if manifest.targets else {}),
        "shards": len(made),
        "of_shards": manifest.shard_count,
        "shard_size": manifest.shard_size,
        "bytes": sum(known[i].bytes for i in made if i in known),
        "change": {
            step: {"rms": each.rms, "largest": each.largest}
            for step, each in merge_changes(entry.change for entry in known.values()).items()
        },
        "skipped": [{"index": each.index, "key": each.key, "why": each.why} for each in skipped],
        "choices": manifest.choices,
        "recipe": manifest.recipe,
    }


def in_words(store: dict[str, Any]) -> list[tuple[str, str]]:
    """Format a description for people, as lines of (name, text).

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
            f"{store['shards']:,} of {store['of_shards']:,}, "
            f"{counted(store['shard_size'], 'image')} each, "
            f"{bytes_in_words(store['bytes'])}",
        ),
    ]
    if targets := store.get("targets"):
        shape = "×".join(map(str, targets["shape"])) or "one number"
        rows.insert(4, ("targets", f"{shape}, {targets['dtype']}"))
    rows += [
        (
            f"K = {step}",
            f"changed by {each['rms']:.3g} grey levels rms, {each['largest']:.3g} at most",
        )
        for step, each in store["change"].items()
    ]
    if store["skipped"]:
        first = store["skipped"][0]
        rows.append(("skipped", f"{len(store['skipped'])}, the first: {first['key']}"))
    return rows


@dataclass(frozen=True)
class Verdict:
    """What `verify` found.

    Attributes:
        shards: number of shards of the whole store.
        whole: number of those that match their checksum and the manifest, with values that fit.
        faults: one line for each fault; a store without faults is whole.
        notes: one line for each file that is not part of the store.
        bytes: read.
        unfinished: the store lacks shards that were not made yet; one fault says so.
    """

    shards: int
    whole: int
    faults: tuple[str, ...]
    notes: tuple[str, ...]
    bytes: int
    unfinished: bool = False


def verify(folder: str | Path, *, progress: Callable[[int, int], None] | None = None) -> Verdict:
    """Read every shard and compare it with the manifest: checksums, shapes, and values.

    Labels must be those of classes, indices and keys those of the data set, images finite. That is
    looked at where the checksum is right too, because both may have been edited.

    Args:
        folder: the store, finished or not.
        progress: called with (shards read, shards to read).

    Returns:
        The faults. Running the store's `sign-ext transform` command again repairs all of them.

    Raises:
        FileNotFoundError: there is no manifest.
        ValueError: the manifest has another format.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    broken: dict[int, str] = {}
    known = shard_entries(folder, manifest, faults=broken)
    faults, whole, size = [], 0, 0
    # The number of images of an unfinished store may be anything: only what exists is counted.
    exist = set(files_by_shard(folder, manifest, ".safetensors"))
    found = exist | known.keys() | broken.keys()
    checked = sorted(found)
    check = partial(_shard_fault, folder, manifest, known, broken)
    # Threads, because hashlib releases the GIL.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for done, (index, fault) in enumerate(
            zip(checked, pool.map(check, checked), strict=True), start=1
        ):
            if fault is None:
                whole += 1
                size += known[index].bytes
            else:
                faults.append(fault)
            if progress is not None:
                progress(done, len(checked))
    if not manifest.complete:
        made = f"{len(exist):,} of {counted(manifest.shard_count, 'shard')}"
        faults.append(f"the store is unfinished: it has {made}, and {MANIFEST} lists no shards yet")
        return _verdict(folder, manifest, whole, faults, size)
    absent = (i for i in range(manifest.shard_count) if i not in found)
    named = list(itertools.islice(absent, MISSING_NAMED))
    faults += [f"{shard_file(index)} is missing" for index in named]
    if (more := manifest.shard_count - len(checked) - len(named)) > 0:
        faults.append(f"{counted(more, 'more shard is', 'more shards are')} missing")
    return _verdict(folder, manifest, whole, faults, size)


def _verdict(folder: Path, manifest: Manifest, whole: int, faults: list[str], size: int) -> Verdict:
    notes = _notes(folder, manifest)
    return Verdict(
        manifest.shard_count, whole, tuple(faults), notes, size, unfinished=not manifest.complete
    )


def _shard_fault(
    folder: Path,
    manifest: Manifest,
    known: dict[int, ShardEntry],
    broken: dict[int, str],
    index: int,
) -> str | None:
    """Return what is wrong with a shard, or None."""
    if index not in known:
        return broken.get(index) or f"{shard_file(index)} has no record"
    fault = fault_of(folder, index, known[index])
    return fault or _content_fault(folder, manifest, known[index], index)


def _content_fault(folder: Path, manifest: Manifest, entry: ShardEntry, index: int) -> str | None:
    """Look at the tensors of a shard whose checksum is right."""
    try:
        with open_tensors(folder / shard_file(index)) as file:
            return structure_fault(file, manifest, index, entry) or values_fault(
                file, manifest, index, entry
            )
    except Exception as error:  # safetensors raises several kinds for a damaged file
        return f"{shard_file(index)} cannot be read ({error})"


def _notes(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    """List the files that are not part of the finished store."""
    shards = {shard_file(index) for index in files_by_shard(folder, manifest, ".safetensors")}
    notes = []
    for name in sorted(os.listdir(folder)):
        if name == LOCK:
            notes.append(f"{LOCK} exists: a run is writing, or was killed")
        elif name in (ASIDE, DISCARDED):
            notes.append(
                f"{name} holds a store that a killed --overwrite was replacing; the next "
                "`sign-ext transform` brings it back, or removes it if the new one has a shard"
            )
        elif is_temporary_file(name):
            notes.append(f"{name} was left by a killed run; the next run removes it")
        elif name not in shards and name != MANIFEST and not is_store_file(name):
            notes.append(f"{name} is not part of this store")
        elif name.endswith(".safetensors") and name not in shards:
            notes.append(f"{name} is beyond the store's {counted(manifest.shard_count, 'shard')}")
    return tuple(notes)
