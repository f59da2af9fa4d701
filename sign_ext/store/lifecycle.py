"""A store from its beginning, where a changed recipe is refused, to its finished manifest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from sign_ext.errors import StoreError
from sign_ext.store.manifest import MANIFEST, Manifest, ShardEntry, differences, read_manifest
from sign_ext.store.shard import read_record, remove_all, remove_leftovers


def begin(
    folder: Path, wanted: Manifest, *, overwrite: bool = False, anew: bool = False
) -> Manifest:
    """Take up the store that is there, or begin one; by the holder of its lock.

    Args:
        folder: the store, there.
        wanted: what this run would make, without shards.
        overwrite: begin anew where another recipe made what is there.
        anew: begin anew in any case, but never over another recipe's store.

    Returns:
        The manifest on disk, with the shards and choices of earlier runs.

    Raises:
        FileExistsError: another recipe made what is there; the message lists what differs.
    """
    remove_leftovers(folder)
    there = _there(folder, overwrite)
    if there is not None and not any(folder.glob("shard-*.safetensors")):
        there = None  # nothing was made yet, so nothing is lost
    changed = [] if there is None else _changes(there, wanted)
    if there is not None and changed and not overwrite:
        raise FileExistsError(
            f"{folder} holds images that were made otherwise: {'; '.join(changed)}. Choose another "
            "folder, or overwrite them (--overwrite)"
        )
    if there is not None and not changed and not anew:
        return there
    # The manifest first: no shard may ever lie under a manifest that did not make it.
    (folder / MANIFEST).unlink(missing_ok=True)
    remove_all(folder)
    wanted.write(folder)
    return wanted


def take_up(folder: Path, wanted: Manifest) -> Manifest:
    """Read the manifest that the first process began, and see that this one would do the same.

    Args:
        folder: the store.
        wanted: what this process would make.

    Raises:
        StoreError: another machine, package or data set than the first process has.
    """
    there = read_manifest(folder)
    if changed := _changes(there, wanted):
        raise StoreError(
            f"this process would make other images than the first one: {'; '.join(changed)}. All "
            "processes need the same hardware, versions and data"
        )
    return there


def entries(
    folder: Path, manifest: Manifest, which: Iterable[int] | None = None
) -> dict[int, ShardEntry]:
    """What is known of shards: from records, which are newer, or from the manifest.

    Args:
        folder: the store.
        manifest: on disk.
        which: the shards whose records are opened; all of them if None.
    """
    known = dict(enumerate(manifest.shards))
    for index in range(manifest.shard_count) if which is None else which:
        if record := read_record(folder, index):
            known[index] = record
    return known


def finish(folder: Path, manifest: Manifest) -> Manifest:
    """List every shard in the manifest, then remove the records; by the holder of the lock.

    Args:
        folder: the store; all shards are there.
        manifest: on disk.

    Returns:
        The complete manifest.

    Raises:
        StoreError: a shard has no record.
    """
    known = entries(folder, manifest)
    if missing := [index for index in range(manifest.shard_count) if index not in known]:
        raise StoreError(f"{folder} has no record of shards {missing[:10]}: run the command again")
    complete = replace(manifest, shards=tuple(known[i] for i in range(manifest.shard_count)))
    if complete != manifest:
        complete.write(folder)
    remove_leftovers(folder, records=True)
    return complete


def _there(folder: Path, overwrite: bool) -> Manifest | None:
    """The manifest in a folder, None if there is none (or none worth keeping)."""
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


def _changes(there: Manifest, wanted: Manifest) -> list[str]:
    """What differs between two manifests, but for choices and shards."""
    left, right = (
        {**vars(each), "shards": (), "choices": {}, "recipe": {}} for each in (there, wanted)
    )
    return differences(there.recipe, wanted.recipe) + differences(
        {name: _listed(value) for name, value in left.items()},
        {name: _listed(value) for name, value in right.items()},
    )


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
