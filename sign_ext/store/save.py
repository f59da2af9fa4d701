"""Saving images that are already in memory as a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sign_ext.data.image_set import fingerprint_of
from sign_ext.data.pairs import stack_pixels
from sign_ext.store.coordination import exclusive_lock
from sign_ext.store.lifecycle import finish, old_store_until_a_shard, resume_or_create
from sign_ext.store.manifest import (
    DTYPES,
    Manifest,
    Provenance,
    TargetKind,
    as_json,
    default_shard_size,
    shard_count,
    shard_range,
)
from sign_ext.store.shard import ShardContent, change_of, write_shard


def save_transformed(
    folder: str | Path,
    snapshots: Mapping[int, Tensor],
    labels: Tensor,
    *,
    recipe: Provenance,
    originals: Tensor | None = None,
    keys: Sequence[str] | None = None,
    class_names: Sequence[str] = (),
    dtype: str = "float32",
    shard_size: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write snapshots and labels as a store.

    Args:
        folder: created if needed; an existing store with the same recipe is written again.
        snapshots: number of steps K → p*_K, float32 (N, C, H, W), any device, pixel units.
        labels: int64 (N,), classes; or other targets: floating (N,), or (N, …) of bool, an integer
            dtype, float32 or float64 (several classes, a mask, a vector an image).
        recipe: JSON-able settings that determine the images (model, data, steps, step size …),
            without anything that differs from run to run, such as times.
        originals: the images that the snapshots were made from, uint8 or float32 (N, C, H, W),
            pixel units. Their fingerprints are stored, so that `Transformed.join` can tell which
            data set the store belongs to.
        keys: the images' names, such as the paths of their files; by default their positions.
        class_names: in label order.
        dtype: of the stored images: "float32", "float16" or "bfloat16"; the last two round.
        shard_size: images per shard; by default as many as fill 64 MiB.
        overwrite: replace a store with another recipe.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder holds a store with another recipe.
        StoreError: the disk is full or cannot be written.
        StoreInUseError: another run is writing the store.
        TypeError: images are not float32, labels of a dtype that is not stored, or JSON cannot hold
            the recipe.
        ValueError: shapes do not match, or the dtype is unknown.

    Example:
        >>> import tempfile
        >>> from sign_ext.store import load_transformed
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     images = {50: torch.zeros(2, 3, 4, 4)}
        ...     _ = save_transformed(folder, images, torch.tensor([0, 1]), recipe={"steps": 50})
        ...     load_transformed(folder).recipe
        {'steps': 50}
    """
    _check(snapshots, labels, dtype, len(class_names))
    _check_originals(originals, keys, next(iter(snapshots.values())))
    first = next(iter(snapshots.values()))
    image_bytes = sum(each[0].numel() for each in snapshots.values()) * DTYPES[dtype].itemsize
    size = shard_size or default_shard_size(image_bytes, len(labels))
    manifest = Manifest(
        recipe=as_json(recipe),
        images=len(labels),
        shard_size=size,
        snapshots=tuple(sorted(snapshots)),
        dtype=dtype,
        image_shape=tuple(first.shape[1:]),
        class_names=tuple(class_names),
        targets=TargetKind.of(labels),
    )
    names = tuple(map(str, range(len(labels)))) if keys is None else tuple(keys)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(folder), old_store_until_a_shard(folder):
        resume_or_create(folder, manifest, overwrite=overwrite, rewrite=True)
        for index in range(shard_count(size, len(labels))):
            positions = shard_range(index, size, len(labels))
            rows = slice(positions.start, positions.stop)
            content = ShardContent(
                {k: snapshots[k][rows].to(DTYPES[dtype]) for k in manifest.snapshots},
                labels[rows],
                torch.arange(positions.start, positions.stop),
                names[rows],
            )
            if originals is None:
                write_shard(folder, index, content)
                continue
            pixels = stack_pixels(originals[rows])
            print_of = fingerprint_of(pixels, content.labels.cpu())
            change = change_of({k: each.cpu() for k, each in content.snapshots.items()}, pixels)
            write_shard(folder, index, content, originals=print_of, change=change)
        finish(folder, manifest)
    return folder


def _check(snapshots: Mapping[int, Tensor], labels: Tensor, dtype: str, classes: int) -> None:
    """Raise unless the images can be stored and read back unchanged."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; accepted: {', '.join(DTYPES)}.")
    if not snapshots:
        raise ValueError("snapshots is empty; give a dict from the number of steps to images.")
    if not labels.ndim or not len(labels):
        raise ValueError("there are no images; give at least one.")
    if TargetKind.of(labels) is None:
        _check_classes(labels, classes)
    for step, images in snapshots.items():
        if not isinstance(step, int) or isinstance(step, bool) or step < 1:
            raise ValueError(f"snapshots has the key {step!r}; accepted: a number of steps ≥ 1.")
        if images.dtype != torch.float32:
            raise TypeError(f"snapshots[{step}] has dtype {images.dtype}; accepted: torch.float32.")
        if images.ndim != 4 or len(labels) != len(images):
            raise ValueError(
                f"snapshots[{step}] has shape {tuple(images.shape)} and labels "
                f"{tuple(labels.shape)}; accepted: (N, C, H, W) and (N,) or (N, …)."
            )


def _check_classes(labels: Tensor, classes: int) -> None:
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or (classes and highest >= classes):
        accepted = f"0 to {classes - 1}, for the {classes} class_names" if classes else "0 or more"
        raise ValueError(
            f"labels range from {lowest} to {highest}; accepted: {accepted}."
            + (" Subtract 1 from every label." if lowest == 1 else "")
        )


def _check_originals(originals: Tensor | None, keys: Sequence[str] | None, images: Tensor) -> None:
    """Raise unless there is one original and one key for each image."""
    if originals is not None:
        if originals.dtype not in (torch.uint8, torch.float32):
            raise TypeError(
                f"originals has dtype {originals.dtype}; accepted: torch.uint8 or torch.float32, "
                "pixel units."
            )
        if originals.shape != images.shape:
            raise ValueError(
                f"originals has shape {tuple(originals.shape)}; accepted: that of the snapshots, "
                f"{tuple(images.shape)}."
            )
    if keys is not None and (isinstance(keys, str) or len(keys) != len(images)):
        raise ValueError(
            f"keys are {len(keys):,}; accepted: one for each of {len(images):,} images."
        )
