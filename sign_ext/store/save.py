"""Images that are in memory already, as a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sign_ext.store.coordination import only_writer
from sign_ext.store.lifecycle import begin, finish
from sign_ext.store.manifest import (
    DTYPES,
    Manifest,
    Recipe,
    as_json,
    default_shard_size,
    shard_count,
    shard_range,
)
from sign_ext.store.shard import ShardContent, write_shard


def save_transformed(
    folder: str | Path,
    snapshots: Mapping[int, Tensor],
    labels: Tensor,
    *,
    recipe: Recipe,
    class_names: Sequence[str] = (),
    dtype: str = "float32",
    shard_size: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write snapshots and labels as a store.

    Args:
        folder: made if needed; a store there that the same recipe made is written anew.
        snapshots: number of steps K → p*_K, float32 (N, C, H, W), any device, pixel units.
        labels: int64 (N,).
        recipe: JSON-able settings that determine the images (model, data, steps, step size …).
            Leave out what differs from run to run, such as times.
        class_names: in label order.
        dtype: "float32", or "float16" or "bfloat16", which round.
        shard_size: images a shard; by default as many as make 64 MiB.
        overwrite: replace a store that another recipe made.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder holds a store made by another recipe.
        StoreError: the disk is full or cannot be written; StoreInUseError: another run writes it.
        TypeError: images that are not float32, labels that are not int64, or a recipe that JSON
            cannot hold.
        ValueError: shapes that do not fit, or an unknown dtype.

    Example:
        >>> import tempfile
        >>> from sign_ext.store import load_transformed
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     images = {50: torch.zeros(2, 3, 4, 4)}
        ...     _ = save_transformed(folder, images, torch.tensor([0, 1]), recipe={"steps": 50})
        ...     load_transformed(folder).recipe
        {'steps': 50}
    """
    _check(snapshots, labels, dtype)
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
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder):
        begin(folder, manifest, overwrite=overwrite, anew=True)
        for index in range(shard_count(size, len(labels))):
            where = shard_range(index, size, len(labels))
            rows = slice(where.start, where.stop)
            content = ShardContent(
                {k: snapshots[k][rows].to(DTYPES[dtype]) for k in manifest.snapshots},
                labels[rows],
                torch.arange(where.start, where.stop),
                tuple(str(position) for position in where),
            )
            write_shard(folder, index, content)
        finish(folder, manifest)
    return folder


def _check(snapshots: Mapping[int, Tensor], labels: Tensor, dtype: str) -> None:
    """Refuse what could not be read back as it was given."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; accepted: {', '.join(DTYPES)}.")
    if not snapshots:
        raise ValueError("snapshots is empty; give a dict from the number of steps to images.")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels has dtype {labels.dtype}; accepted: torch.int64.")
    if not len(labels):
        raise ValueError("there are no images; give at least one.")
    for step, images in snapshots.items():
        if not isinstance(step, int) or isinstance(step, bool) or step < 1:
            raise ValueError(f"snapshots has the key {step!r}; accepted: a number of steps ≥ 1.")
        if images.dtype != torch.float32:
            raise TypeError(f"snapshots[{step}] has dtype {images.dtype}; accepted: torch.float32.")
        if images.ndim != 4 or labels.shape != (len(images),):
            raise ValueError(
                f"snapshots[{step}] has shape {tuple(images.shape)} and labels "
                f"{tuple(labels.shape)}; accepted: (N, C, H, W) and (N,)."
            )
