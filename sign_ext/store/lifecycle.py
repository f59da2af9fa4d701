"""The life of a store on disk: created or resumed, then completed by its finished manifest."""

from __future__ import annotations

import os
from collections.abc import Container
from dataclasses import replace
from pathlib import Path

from sign_ext.errors import StoreError
from sign_ext.store.manifest import (
    MANIFEST,
    Manifest,
    ShardEntry,
    TargetKind,
    differences,
    files_by_shard,
    read_manifest,
)
from sign_ext.store.shard import has_leftovers, read_record, remove_all, remove_leftovers


def resume_or_create(
    folder: Path, wanted: Manifest, *, overwrite: bool = False, rewrite: bool = False
) -> Manifest:
    """Resume or create a store. The caller holds its lock.

    Args:
        folder: the store; it exists.
        wanted: the manifest of what this run would make, without shards.
        overwrite: replace a store that was made with other settings.
        rewrite: discard the shards of an existing store, but only if its settings are the same.

    Returns:
        The manifest on disk, with the shards and choices of earlier runs.

    Raises:
        FileExistsError: the existing store was made with other settings; the message lists the
            differences.
    """
    remove_leftovers(folder)
    existing = _existing_manifest(folder, overwrite)
    if existing is not None and not any(folder.glob("shard-*.safetensors")):
        existing = None  # no shard was made yet, so nothing is lost
    changed = [] if existing is None else _changes(existing, wanted)
    if changed and not overwrite:
        raise FileExistsError(
            f"{folder} holds images that were made with other settings: {'; '.join(changed)}. "
            "Choose another folder, or overwrite them (--overwrite)"
        )
    if existing is not None and not changed and not rewrite:
        return existing
    # In this order a kill at any point is safe: no shard is ever next to a manifest of other
    # settings. The old manifest goes first, so shards that survive a kill belong to no manifest
    # and are removed by the next run; the new manifest comes after the last old shard is gone.
    (folder / MANIFEST).unlink(missing_ok=True)
    remove_all(folder)
    wanted.write(folder)
    return wanted


def finished_manifest(folder: Path, wanted: Manifest) -> Manifest | None:
    """Return the manifest of a complete store that this run would make; else None. Writes nothing.

    Args:
        folder: the store; it need not exist.
        wanted: the manifest of what this run would make, without shards.
    """
    try:
        manifest = read_manifest(folder)
        if not manifest.complete or _changes(manifest, wanted):
            return None
        tidy = not has_leftovers(folder) or not os.access(folder, os.W_OK)
        return manifest if tidy else None
    except (OSError, ValueError):
        return None  # `resume_or_create` says why


def join_store(folder: Path, wanted: Manifest) -> Manifest:
    """Read the manifest that the first process wrote, and check it against this process's own.

    Args:
        folder: the store.
        wanted: the manifest of what this process would make.

    Raises:
        StoreError: hardware, packages or data differ from the first process's.
    """
    existing = read_manifest(folder)
    if changed := _changes(existing, wanted):
        raise StoreError(
            "this process would make other images than the first one: "
            f"{'; '.join(changed)}. All processes need the same hardware, versions and data"
        )
    return existing


def shard_entries(
    folder: Path,
    manifest: Manifest,
    shards: Container[int] | None = None,
    faults: dict[int, str] | None = None,
) -> dict[int, ShardEntry]:
    """Collect the entries of shards, from their records or from the manifest.

    A record is newer than the manifest's entry, so it wins.

    Args:
        folder: the store.
        manifest: on disk.
        shards: those whose records are read; None reads all.
        faults: gets shard → what is wrong with its record, for records that cannot be used.
    """
    known = dict(enumerate(manifest.shards))
    for index in files_by_shard(folder, manifest, ".json"):
        if shards is not None and index not in shards:
            continue
        try:
            if record := read_record(folder, index, manifest):
                known[index] = record
        except ValueError as error:
            if faults is not None:
                faults[index] = str(error)
    return known


def finish(folder: Path, manifest: Manifest) -> Manifest:
    """List every shard in the manifest, then remove the records. The caller holds the lock.

    Args:
        folder: the store, with all its shards.
        manifest: on disk.

    Returns:
        The complete manifest.

    Raises:
        StoreError: a shard has no record that can be used.
    """
    known = shard_entries(folder, manifest)
    if missing := [index for index in range(manifest.shard_count) if index not in known]:
        raise StoreError(f"{folder} has no record of shards {missing[:10]}: run the command again")
    complete = replace(manifest, shards=tuple(known[i] for i in range(manifest.shard_count)))
    if complete != manifest:
        complete.write(folder)
    # Only now: until the manifest lists them, the records are all that is known of the shards.
    remove_leftovers(folder, records=True)
    return complete


def _existing_manifest(folder: Path, overwrite: bool) -> Manifest | None:
    """Read the manifest in a folder; None if there is none, or an unreadable one to overwrite."""
    if not (folder / MANIFEST).exists():
        return None
    try:
        return read_manifest(folder)
    except ValueError as error:
        if overwrite:
            return None
        raise FileExistsError(
            f"{folder} holds a manifest that cannot be used ({error}) Choose another folder, or "
            "overwrite it (--overwrite)"
        ) from error


def _changes(existing: Manifest, wanted: Manifest) -> list[str]:
    """List the differences between two manifests, except in choices and shards."""
    left, right = (
        {**vars(each), "shards": (), "choices": {}, "recipe": {}} for each in (existing, wanted)
    )
    return differences(existing.recipe, wanted.recipe) + differences(
        {name: _as_list(value) for name, value in left.items()},
        {name: _as_list(value) for name, value in right.items()},
    )


def _as_list(value: object) -> object:
    """What JSON makes of a field."""
    if isinstance(value, TargetKind):
        return {"dtype": value.dtype, "shape": list(value.shape)}
    return list(value) if isinstance(value, tuple) else value
