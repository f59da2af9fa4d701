"""The life of a store on disk: created or resumed, then completed by its finished manifest."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sign_ext.errors import StoreError
from sign_ext.files import require_regular
from sign_ext.formatting import counted
from sign_ext.set_aside import discard, is_set_aside, recover, set_aside
from sign_ext.store.manifest import (
    MANIFEST,
    Manifest,
    ShardEntry,
    TargetKind,
    differences,
    files_by_shard,
    is_temporary_file,
    read_manifest,
)
from sign_ext.store.shard import (
    has_leftovers,
    read_record,
    remove_all,
    remove_leftovers,
    store_files,
)

# What a training run leaves: a store in the same folder would be taken for a part of it.
RUN_FILES = ("last.safetensors", "model.safetensors")

# One of these is at the beginning of every manifest of this package, damaged or edited.
_OWN_WORDS = (b'"format_version"', b"sign_ext.")


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
            differences. Or the folder holds shards without a manifest, a manifest of another
            program, or a training run.
    """
    bring_back(folder)
    _require_own(folder, overwrite)
    remove_leftovers(folder)
    existing = _existing_manifest(folder, overwrite)
    if existing is not None and not any(folder.glob("shard-*.safetensors")):
        existing = None  # no shard was made yet, so nothing is lost
    changed = [] if existing is None else _changes(existing, wanted)
    if changed and not overwrite:
        raise _other_settings(folder, changed)
    if existing is not None and not changed and not rewrite:
        return existing
    # In this order a kill at any point is safe: no shard is ever next to a manifest of other
    # settings. The old manifest goes first, and the new one comes after the last old shard.
    old = [each for each in (folder / MANIFEST, *store_files(folder)) if each.exists()]
    if any(each.suffix == ".safetensors" for each in old):
        set_aside(folder, old)
    (folder / MANIFEST).unlink(missing_ok=True)
    remove_all(folder)
    wanted.write(folder)
    return wanted


def require_same_settings(folder: Path, wanted: Manifest) -> None:
    """Raise FileExistsError if a store has shards that were made with other settings.

    Args:
        folder: a store.
        wanted: the manifest of what this run would make, without shards.
    """
    changed = _changes(read_manifest(folder), wanted)
    if changed and any(folder.glob("shard-*.safetensors")):
        raise _other_settings(folder, changed)


def _other_settings(folder: Path, changed: list[str]) -> FileExistsError:
    return FileExistsError(
        f"{folder} holds images that were made with other settings: {'; '.join(changed)}. "
        "Choose another folder, or overwrite them (--overwrite)"
    )


def bring_back(folder: Path) -> None:
    """Put a store that was to be replaced in its place again, unless a shard of the new one exists.

    The caller holds the lock; without a replaced store nothing is done.

    Args:
        folder: the store.
    """
    if is_set_aside(folder):
        new = [folder / MANIFEST, *store_files(folder)]
        recover(folder, new=new, enough=any(folder.glob("shard-*.safetensors")))


@contextmanager
def old_store_until_a_shard(folder: Path) -> Iterator[None]:
    """Bring the replaced store back if the block fails before the new one has a shard.

    A killed process leaves it to the next `resume_or_create`. The caller holds the lock.

    Args:
        folder: the store.
    """
    try:
        yield
    except BaseException:
        bring_back(folder)
        raise
    discard(folder)


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
        left = has_leftovers(folder) or is_set_aside(folder)
        tidy = not left or not os.access(folder, os.W_OK)
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
    discard(folder)
    return complete


def _require_own(folder: Path, overwrite: bool) -> None:
    """Raise FileExistsError where files that are no store's would be lost, or mixed with one."""
    if (path := folder / MANIFEST).exists():
        require_regular(path)
        with path.open("rb") as file:
            head = file.read(4096)
        if head and not any(words in head for words in _OWN_WORDS):
            raise FileExistsError(
                f"{path} is not the manifest of a store, and is not replaced: choose another folder"
            )
        return
    if runs := [name for name in RUN_FILES if (folder / name).exists()]:
        raise FileExistsError(
            f"{folder} holds {runs[0]}, the file of a network or of a training run: choose another "
            "folder for the store"
        )
    found = sorted(each.name for each in store_files(folder) if not is_temporary_file(each.name))
    if found and not overwrite:
        more = f" and {counted(len(found) - 1, 'other file')} like it" if len(found) > 1 else ""
        raise FileExistsError(
            f"{folder} holds {found[0]}{more}, but no {MANIFEST} that says how they were made. "
            "Choose another folder, or overwrite them (--overwrite)"
        )


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
