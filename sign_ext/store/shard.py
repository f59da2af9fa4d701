"""One shard: written atomically with a record of what it holds, and verified against it."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sign_ext.change import Change, combine, measure_change
from sign_ext.errors import StoreError
from sign_ext.files import (
    json_text,
    put_in_place,
    read_json,
    require_regular,
    sha256_of,
    write_whole,
)
from sign_ext.store.manifest import (
    FORMAT,
    FORMAT_VERSION,
    Manifest,
    ShardEntry,
    Skipped,
    TargetKind,
    entry_fault,
    is_store_file,
    is_temporary_file,
    record_file,
    shard_file,
    shard_range,
    tensor_name,
)

# As safetensors writes them in a file's header.
_DTYPE_NAMES = {
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "bool": "BOOL",
    "uint8": "U8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
}


@dataclass(frozen=True, eq=False)
class ShardContent:
    """The content of a shard.

    Attributes:
        snapshots: number of steps K → p*_K, (n, C, H, W) in the stored dtype, pixel units.
        labels: int64 (n,), or the targets that take their place, (n, ...).
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

    Raises:
        ValueError: the two do not fit.
    """
    joined = text.numpy().tobytes()
    stops = ends.tolist()
    starts = [0, *stops[:-1]] if stops else []
    # A slice beyond the text would be shorter without a word.
    for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        if not start <= stop <= len(joined):
            raise ValueError(
                f"key_ends[{row}] is {stop}; accepted: {start} to {len(joined)}, the length of keys"
            )
    if (stops[-1] if stops else 0) != len(joined):
        raise ValueError(f"keys has {len(joined)} bytes, not the {stops[-1:] or 0} of key_ends")
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


def read_record(folder: Path, index: int, manifest: Manifest) -> ShardEntry | None:
    """Read a shard's record; None if there is none.

    Args:
        folder: the store.
        index: of the shard.
        manifest: of the store, which the record must not contradict.

    Raises:
        ValueError: the record cannot be read; the message names it and the field.
    """
    path = folder / record_file(index)
    try:
        entry = ShardEntry.from_dict(read_json(path, path.name), path.name)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read ({error.strerror})") from error
    if fault := entry_fault(manifest, index, entry):
        raise ValueError(f"{path.name}: {fault}")
    return entry


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
        require_regular(path)
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


def structure_fault(file: Any, manifest: Manifest, index: int, entry: ShardEntry) -> str | None:
    """Return what is wrong with the tensors that a shard's header lists, or None.

    Args:
        file: the shard, opened with `safe_open`.
        manifest: of the store.
        index: of the shard.
        entry: what it should be.
    """
    count, name = entry.images, shard_file(index)
    images = (_DTYPE_NAMES[manifest.dtype], [count, *manifest.image_shape])
    targets = manifest.targets or TargetKind("int64", ())
    wanted: dict[str, tuple[str, list[int] | None]] = {
        **{tensor_name(step): images for step in manifest.snapshots},
        "labels": (_DTYPE_NAMES[targets.dtype], [count, *targets.shape]),
        **{each: ("I64", [count]) for each in ("indices", "key_ends")},
        "keys": ("U8", None),
    }
    present = set(file.keys())
    for tensor, (dtype, shape) in wanted.items():
        if tensor not in present:
            return f"{name} has no {tensor}"
        found = file.get_slice(tensor)
        if shape is not None and found.get_shape() != shape:
            return f"{name}: {tensor} is {found.get_shape()}, not {shape}"
        if shape is None and len(found.get_shape()) != 1:
            return f"{name}: {tensor} is {found.get_shape()}, not one row of bytes"
        if found.get_dtype() != dtype:
            return f"{name}: {tensor} is {found.get_dtype()}, not {dtype}"
    return None


def values_fault(file: Any, manifest: Manifest, index: int, entry: ShardEntry) -> str | None:
    """Return what is wrong with a shard's values, whose structure is right, or None.

    Args:
        file: the shard, opened with `safe_open`.
        manifest: of the store.
        index: of the shard.
        entry: what it should be.
    """
    name = shard_file(index)
    labels, indices = file.get_tensor("labels"), file.get_tensor("indices").tolist()
    fault = labels_fault(labels, len(manifest.class_names)) if manifest.targets is None else None
    if fault:
        return f"{name}: {fault}"
    left_out = {each.index for each in entry.skipped}
    positions = shard_range(index, manifest.shard_size, manifest.images)
    for row, wanted in enumerate(each for each in positions if each not in left_out):
        if indices[row] != wanted:
            return f"{name}: indices[{row}] is {indices[row]}, not {wanted}"
    try:
        unpack_keys(file.get_tensor("keys"), file.get_tensor("key_ends"))
    except ValueError as error:
        return f"{name}: {error}"
    for step in manifest.snapshots:
        finite = torch.isfinite(file.get_tensor(tensor_name(step))).flatten(1).all(1)
        if not bool(finite.all()):
            row = int((~finite).nonzero()[0])
            return f"{name}: {tensor_name(step)}[{row}] has values that are not finite"
    return None


def labels_fault(labels: Tensor, classes: int) -> str | None:
    """Return what is wrong with labels, or None.

    Args:
        labels: int64 (n,).
        classes: their number; 0 if unknown.
    """
    wrong = labels < 0
    if classes:
        wrong = wrong | (labels >= classes)
    if not bool(wrong.any()):
        return None
    row = int(wrong.nonzero()[0])
    accepted = f"0 to {classes - 1}" if classes else "0 or more"
    return f"labels[{row}] is {int(labels[row])}; accepted: {accepted}"


def remove_all(folder: Path) -> None:
    """Remove every shard, record and temporary file of a store, and nothing else.

    Args:
        folder: the store.
    """
    for path in store_files(folder):
        path.unlink(missing_ok=True)


def has_leftovers(folder: Path) -> bool:
    """Return whether a store holds files that a finished run removes: records, temporary files.

    Args:
        folder: the store.
    """
    return any(path.suffix != ".safetensors" for path in store_files(folder))


def remove_leftovers(folder: Path, records: bool = False) -> None:
    """Remove temporary files of killed writers and, on request, the records.

    Args:
        folder: the store.
        records: remove them too, because the manifest now lists the shards.
    """
    for path in store_files(folder):
        if is_temporary_file(path.name) or (records and path.suffix == ".json"):
            path.unlink(missing_ok=True)


def store_files(folder: Path) -> list[Path]:
    """List the shards, records and temporary files in a folder.

    Args:
        folder: a store, or what may become one.
    """
    with os.scandir(folder) as entries:
        return [folder / each.name for each in entries if is_store_file(each.name)]


# How far SIGN moved a shard's images, measured on a sample of them.


SAMPLED_IMAGES = 256  # of a shard, evenly spaced: a mean over so many is within about a percent


def change_of(snapshots: Mapping[int, Tensor], originals: Tensor) -> dict[int, Change]:
    """Compare snapshots with the images they were made from.

    Args:
        snapshots: number of steps K → p*_K, (n, C, H, W) on the CPU.
        originals: uint8 (n, C, H, W).

    Returns:
        K → the change, to the six digits that a record holds; {} without images.
    """
    if not len(originals):
        return {}
    sample = np.unique(np.linspace(0, len(originals) - 1, SAMPLED_IMAGES).astype(np.int64)).tolist()
    found = {}
    for step, images in snapshots.items():
        change = measure_change(images, originals, sample)
        rms, largest = (float(f"{value:.6g}") for value in (change.rms, change.largest))
        found[step] = Change(change.images, rms, largest)
    return found


def merge_changes(changes: Iterable[Mapping[int, Change]]) -> dict[int, Change]:
    """Combine the changes of several shards, by number of steps.

    Args:
        changes: one mapping per shard.
    """
    by_step: dict[int, list[Change]] = {}
    for shard in changes:
        for step, change in shard.items():
            by_step.setdefault(step, []).append(change)
    return {step: combine(parts) for step, parts in sorted(by_step.items())}
