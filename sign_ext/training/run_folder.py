"""The folder of a run: made, opened or refused at the start, complete at the end."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import sign_ext
from sign_ext.augment import Augment
from sign_ext.data import ImageSet, fingerprint
from sign_ext.training.checkpoints import CHECKPOINT_NAME
from sign_ext.training.objective import Objective
from sign_ext.training.processes import ALONE, Processes
from sign_ext.training.result import TrainResult
from sign_ext.training.scalars import remove_scalars
from sign_ext.training.settings import TrainSettings
from sign_ext.training.state import STATE_NAME, describe_differences, peek


def open_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Make the folder, and settle what happens to a run that it holds.

    Args:
        folder: of the run.
        resume: a run in it is continued.
        overwrite: a run in it is discarded.

    Raises:
        ValueError: both were asked for.
        FileExistsError: it holds a run, and neither was; or a checkpoint without a state.
    """
    if resume and overwrite:
        raise ValueError("resume continues the run in `out`, overwrite discards it: give one.")
    state, checkpoint = folder / STATE_NAME, folder / CHECKPOINT_NAME
    if overwrite:
        for file in (checkpoint, checkpoint.with_suffix(".json"), state):
            file.unlink(missing_ok=True)
        remove_scalars(folder)
    elif checkpoint.exists() and not state.exists():
        raise FileExistsError(
            f"{folder} holds {CHECKPOINT_NAME} but no {STATE_NAME} to resume from: give another "
            "folder, or overwrite=True to replace it."
        )
    elif state.exists() and not resume:
        epochs, steps = peek(folder)
        raise FileExistsError(
            f"{folder} already holds a training run ({epochs} epochs, {steps} steps done): give "
            "resume=True to continue it, overwrite=True to discard it, or another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)


def holds_state(folder: Path | None) -> bool:
    """Say whether there is a run to resume."""
    return folder is not None and (folder / STATE_NAME).is_file()


def complete(folder: Path) -> bool:
    """Say whether the run's checkpoint has been written whole."""
    checkpoint = folder / CHECKPOINT_NAME
    return checkpoint.is_file() and checkpoint.with_suffix(".json").is_file()


# A run in plain values: what it is made from, and the configuration its checkpoint carries.


def describe_part(part: Augment | Objective) -> dict[str, Any]:
    """Name an augmentation or objective, with its options, and so its parts, if a dataclass."""
    described = _plain(part)
    if isinstance(described, dict):
        return described
    return {"class": type(part).__qualname__}


def _plain(value: Any) -> Any:
    """Turn dataclasses, however deep in tuples, into dicts that name their class.

    Tuples of dataclasses become dicts by position, so that a difference names the entry.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": type(value).__qualname__, **fields}
    if isinstance(value, tuple | list):
        items = [_plain(item) for item in value]
        if items and all(isinstance(item, dict) for item in items):
            return {str(i): item for i, item in enumerate(items)}
        return items
    return value


def run_identity(
    model: nn.Module,
    train_set: ImageSet,
    validation: ImageSet,
    settings: TrainSettings,
    augment: Augment,
    objective: Objective,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """What a run is made from, besides its initial weights, for telling whether it changed.

    The number of processes is in it only where it changes what is computed, and not only how it
    is rounded and which numbers dropout draws: with batch normalisation on CPUs.
    """
    layers = {
        name or "whole": f"{type(m).__name__}({' '.join(m.extra_repr().split())})"
        for name, m in model.named_modules()
    }
    sets = {"train_set": train_set, "validation": validation}
    apart = (
        processes.count > 1
        and processes.device.type == "cpu"
        and any(isinstance(m, _BatchNorm) for m in model.modules())
    )
    return {
        "settings": settings.to_dict(),
        "augment": describe_part(augment),
        "objective": describe_part(objective),
        **{
            key: {"name": s.name, "images": len(s), "sha256": fingerprint(s)}
            for key, s in sets.items()
        },
        "model": {"parameters": sum(p.numel() for p in model.parameters()), "layers": layers},
        **({"batch_statistics": f"of each of {processes.count} processes"} if apart else {}),
    }


def check_same_call(identity: Mapping[str, Any], processes: Processes) -> None:
    """Raise ValueError, on every process, unless all were called with the same; collective.

    Args:
        identity: what this process was called with, from :func:`run_identity`.
        processes: of the run.
    """
    first = processes.tell(identity)
    with processes.agreeing():
        places = ("in process 0", f"in process {processes.rank}")
        differences = describe_differences(first, identity, places)
        if differences:
            raise ValueError(
                "The processes of one run must call train() with the same arguments; these "
                "differ:\n  " + "\n  ".join(differences[:8]) + "\nFor separate runs start each "
                "without torchrun."
            )


def full_config(
    config: Mapping[str, Any] | None,
    train_set: ImageSet,
    settings: TrainSettings,
    augment: Augment,
    objective: Objective,
    result: TrainResult,
    processes: int = 1,
) -> dict[str, Any]:
    """Fill in what the caller's configuration does not say."""
    described = {
        "settings": settings.to_dict(),
        "augment": describe_part(augment),
        "objective": describe_part(objective),
        "train_set": train_set.name,
        "best_epoch": result.best_epoch,
        "best_validation_accuracy": result.best_validation_accuracy,
        "steps": result.steps,
        **({"processes": processes} if processes > 1 else {}),
    }
    defaults: dict[str, Any] = {
        "train": described,
        "class_names": list(train_set.class_names),
        "versions": {
            "sign_ext": sign_ext.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    return {**defaults, **(config or {})}
