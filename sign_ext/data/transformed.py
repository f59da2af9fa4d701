"""SIGN's outputs on disk: one safetensors file, and a manifest that says how they were made."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sign_ext.files import put_in_place, sha256_of, write_whole

FORMAT = "sign_ext.transformed"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, eq=False)
class Transformed:
    """Transformed images as they were stored.

    Args:
        snapshots: number of steps K → p*_K, float32 (N, 3, H, W) in pixel units, not clipped.
        labels: int64 (N,).
        manifest: the settings given to `save_transformed`.
    """

    snapshots: dict[int, Tensor]
    labels: Tensor
    manifest: dict[str, Any]


def save_transformed(
    folder: str | Path,
    snapshots: dict[int, Tensor],
    labels: Tensor,
    *,
    manifest: dict[str, Any],
    overwrite: bool = False,
) -> Path:
    """Write snapshots and labels into a folder, whole or not at all.

    Args:
        folder: made if needed; a later call with the same settings replaces its content.
        snapshots: number of steps K → p*_K, float32 (N, 3, H, W), any device.
        labels: int64 (N,).
        manifest: JSON-able settings that determine the images (model, data, steps, step size …).
            Leave out what differs from run to run, such as times.
        overwrite: replace content that was made with other settings.

    Returns:
        The manifest's path.

    Raises:
        FileExistsError: the folder holds images made with other settings.
        TypeError: images that are not float32, labels that are not int64, or settings that
            JSON cannot hold.
        ValueError: shapes that do not fit.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     images = {50: torch.zeros(2, 3, 4, 4)}
        ...     _ = save_transformed(folder, images, torch.tensor([0, 1]), manifest={"steps": 50})
        ...     load_transformed(folder).manifest
        {'steps': 50}
    """
    from safetensors.torch import save_file

    _check(snapshots, labels)
    try:
        settings = json.loads(json.dumps(manifest, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"manifest cannot be written as JSON: {error}.") from error
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not overwrite:
        _refuse_other_settings(folder, settings)
    temporary = folder / f".writing-{os.getpid()}.tmp"
    try:
        tensors = _plain({key(step): images for step, images in snapshots.items()})
        save_file({**tensors, **_plain({"labels": labels})}, temporary)
        digest = sha256_of(temporary)
        # The name holds the content's hash, so new data never lies under an old manifest.
        data = folder / f"images-{digest[:16]}.safetensors"
        put_in_place(temporary, data)
        record = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "file": data.name,
            "sha256": digest,
            "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
            "settings": settings,
        }
        write_whole(folder / MANIFEST, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    finally:
        temporary.unlink(missing_ok=True)
    for old in folder.glob("images-*.safetensors"):
        if old.name != data.name:
            old.unlink(missing_ok=True)
    return folder / MANIFEST


def load_transformed(folder: str | Path) -> Transformed:
    """Read what `save_transformed` wrote, after checking that it is whole.

    Args:
        folder: the folder.

    Returns:
        Snapshots, labels and settings.

    Raises:
        FileNotFoundError: no manifest, or not the file that it names.
        ValueError: a manifest of another format, or data that does not fit it.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    record = _read_manifest(folder)
    data = folder / record["file"]
    if not data.is_file():
        raise FileNotFoundError(
            f"{data} is missing; {folder / MANIFEST} names it. Transform again."
        )
    found = sha256_of(data)
    if found != record["sha256"]:
        raise ValueError(
            f"{data} has the SHA-256 {found}, its manifest says {record['sha256']}: the file is "
            "damaged or was changed. Transform again."
        )
    tensors = load_file(data)
    labels = tensors.pop("labels", None)
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if labels is None or shapes != record["shapes"]:
        raise ValueError(
            f"{data} holds {shapes}, its manifest says {record['shapes']}. Transform again."
        )
    snapshots = {int(name.removeprefix("images_")): tensors[name] for name in sorted(tensors)}
    return Transformed(snapshots, labels, record["settings"])


def key(step: int) -> str:
    """Return the name under which a snapshot is stored.

    Args:
        step: number of steps, 1 or more.

    Example:
        >>> key(50)
        'images_000050'
    """
    return f"images_{step:06d}"


def _check(snapshots: dict[int, Tensor], labels: Tensor) -> None:
    """Refuse what could not be read back as it was given."""
    if not snapshots:
        raise ValueError("snapshots is empty; give a dict from the number of steps to images.")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels has dtype {labels.dtype}; accepted: torch.int64.")
    for step, images in snapshots.items():
        if not isinstance(step, int) or isinstance(step, bool) or step < 1:
            raise ValueError(f"snapshots has the key {step!r}; accepted: a number of steps ≥ 1.")
        if images.dtype != torch.float32:
            raise TypeError(
                f"snapshots[{step}] has dtype {images.dtype}; accepted: torch.float32. "
                "SIGN's images are stored as they are, never rounded."
            )
        if images.ndim != 4 or labels.shape != (len(images),):
            raise ValueError(
                f"snapshots[{step}] has shape {tuple(images.shape)} and labels "
                f"{tuple(labels.shape)}; accepted: (N, C, H, W) and (N,)."
            )


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors on the CPU, each alone in memory of its own, as safetensors wants them."""
    result: dict[str, Tensor] = {}
    taken = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        whole = plain.untyped_storage().nbytes() == plain.numel() * plain.element_size()
        if not whole or plain.data_ptr() in taken:
            plain = plain.clone()
        taken.add(plain.data_ptr())
        result[name] = plain
    return result


def _refuse_other_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Raise if the folder holds images that other settings made."""
    if not (folder / MANIFEST).exists():
        return
    try:
        old = _read_manifest(folder)["settings"]
    except ValueError as error:
        raise FileExistsError(
            f"{folder} holds a manifest that cannot be read ({error}); choose another folder, or "
            "pass overwrite=True."
        ) from error
    names = sorted(
        name for name in {*old, *settings} if old.get(name, ...) != settings.get(name, ...)
    )
    if names:
        raise FileExistsError(
            f"{folder} holds images made with other settings (different: {', '.join(names)}); "
            "choose another folder, or pass overwrite=True to replace them."
        )


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Return a manifest whose fields are all there and of the right kind."""
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: no transformed images lie in {folder}, or writing them was "
            "interrupted. Transform again, or give the folder that was written to."
        )
    try:
        record = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"{path} is not a manifest of transformed images (format {FORMAT!r}).")
    if record.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {record.get('format_version')!r}; accepted: "
            f"{FORMAT_VERSION}. Use the version of sign_ext that wrote it, or transform again."
        )
    # The name is used as a path, so nothing but the names that are written here will do.
    name = record.get("file")
    if not isinstance(name, str) or not re.fullmatch(r"images-[0-9a-f]{16}\.safetensors", name):
        raise ValueError(f"{path} names the file {name!r}; it was changed. Transform again.")
    fields = {"sha256": str, "shapes": dict, "settings": dict}
    for field, kind in fields.items():
        if not isinstance(record.get(field), kind):
            raise ValueError(f"{path} has no proper {field!r}; it was changed. Transform again.")
    return record
