"""The folder of a run: opened, resumed or refused at the start, complete at the end.

It holds the state file, TensorBoard curves and in the end the checkpoint. A run's identity tells
whether a folder belongs to the run that is requested.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sign_ext.augment import Augment
from sign_ext.data import ImageSet, fingerprint
from sign_ext.environment import versions
from sign_ext.files import open_tensors, utf_8_path
from sign_ext.formatting import counted
from sign_ext.set_aside import discard, is_set_aside, recover, set_aside
from sign_ext.training.checkpoints import CHECKPOINT_NAME
from sign_ext.training.objective import Objective
from sign_ext.training.processes import ONE_PROCESS, Processes
from sign_ext.training.settings import TrainSettings
from sign_ext.training.state import STATE_NAME, TrainResult, describe_differences, peek

TENSORBOARD = "tensorboard"
_FILES = (STATE_NAME, CHECKPOINT_NAME, str(Path(CHECKPOINT_NAME).with_suffix(".json")))
_TAGS = {
    "train_loss": "train/loss",
    "train_accuracy": "train/accuracy",
    "validation_loss": "validation/loss",
    "validation_accuracy": "validation/accuracy",
    "validation_auc": "validation/auc",  # of runs that select by it
}


def open_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Create the folder, or decide what happens to a run in it.

    Args:
        folder: of the run.
        resume: continue a run in it.
        overwrite: set the files of a run in it aside; `old_run_until_an_epoch` removes them.

    Raises:
        ValueError: both are True.
        FileExistsError: it holds a run and neither is True, it holds a checkpoint without state,
            or files of these names that are no run's, or a store.
    """
    if resume and overwrite:
        raise ValueError("resume continues the run in `out`, overwrite discards it: give one.")
    _bring_back(folder)
    _require_own(folder, overwrite)
    state, checkpoint = folder / STATE_NAME, folder / CHECKPOINT_NAME
    if overwrite:
        if old := _run_files(folder):
            set_aside(folder, old)
    elif checkpoint.exists() and not state.exists():
        raise FileExistsError(
            f"{folder} holds {CHECKPOINT_NAME} but no {STATE_NAME} to resume from: give another "
            "folder, or overwrite the checkpoint (--overwrite)."
        )
    elif state.exists() and not resume:
        epochs, steps = peek(folder)
        raise FileExistsError(
            f"{folder} already holds a training run ({counted(epochs, 'epoch')}, "
            f"{counted(steps, 'step')} done): resume it (--resume), overwrite it (--overwrite), "
            "or give another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def old_run_until_an_epoch(folder: Path | None) -> Iterator[None]:
    """Bring the overwritten run back if the block fails before the new one has saved an epoch.

    A killed process leaves it to the next `open_folder`.

    Args:
        folder: of the run; None for none.
    """
    try:
        yield
    except BaseException:
        if folder is not None:
            _bring_back(folder)
        raise
    if folder is not None:
        discard(folder)


def _bring_back(folder: Path) -> None:
    """Put a run that was to be replaced in its place again, unless the new one has an epoch."""
    if is_set_aside(folder):
        recover(folder, new=_run_files(folder), enough=(folder / STATE_NAME).exists())


def _run_files(folder: Path) -> list[Path]:
    """List the files of a run that exist."""
    files = [folder / name for name in _FILES]
    return [
        *(each for each in files if each.exists()),
        *(folder / TENSORBOARD).glob("events.out.tfevents.*"),
    ]


def _require_own(folder: Path, overwrite: bool) -> None:
    """Raise FileExistsError where files that are no run's would be lost, or mixed with one."""
    found = [name for name in _FILES if (folder / name).exists()]
    manifest = folder / "manifest.json"
    if not found and manifest.exists() and any(folder.glob("shard-*.safetensors")):
        raise FileExistsError(
            f"{folder} holds a store of transformed images: give another folder for the run."
        )
    replaced = overwrite or found == [_FILES[-1]]
    if (
        found
        and replaced
        and not any(map(_is_own, (folder / STATE_NAME, folder / CHECKPOINT_NAME)))
    ):
        raise FileExistsError(
            f"{folder} holds {found[0]}, which no training run of sign_ext wrote, and it is not "
            "replaced: give another folder."
        )


def _is_own(file: Path) -> bool:
    """Return whether this package wrote a file of tensors."""
    try:
        with open_tensors(file) as tensors:
            return any(key.startswith("sign_ext.") for key in tensors.metadata() or {})
    except Exception:  # safetensors raises several kinds for a file of another format
        return False


@contextmanager
def without_empty_folders(folder: Path | None) -> Iterator[None]:
    """Remove the folders that the block created for nothing: on an error, if they are empty.

    Args:
        folder: of the run, which the block may create with its parents; None for none.
    """
    places = () if folder is None else (folder, *folder.parents)
    absent = [path for path in places if not os.path.lexists(path)]
    try:
        yield
    except BaseException:
        for path in absent:
            try:
                path.rmdir()
            except OSError:  # it was not created, or holds something
                break
        raise


def holds_state(folder: Path | None) -> bool:
    """Return whether there is a run to resume."""
    return folder is not None and (folder / STATE_NAME).exists()


def complete(folder: Path) -> bool:
    """Return whether the run's checkpoint has been written completely."""
    checkpoint = folder / CHECKPOINT_NAME
    return checkpoint.is_file() and checkpoint.with_suffix(".json").is_file()


class ScalarLog(Protocol):
    """Takes one row of a training history after each epoch."""

    def __call__(self, row: Mapping[str, float | int], learning_rate: float) -> None:
        """Write the row's values at its gradient step."""
        ...


@contextmanager
def scalar_log(folder: Path | None, steps_done: int) -> Iterator[ScalarLog]:
    """Open the TensorBoard curves for the duration of a run; without a folder nothing is written.

    Args:
        folder: of the run.
        steps_done: gradient steps in the run's state. Later points, of an interrupted attempt, are
            dropped, because those steps are taken again.
    """
    if folder is None:
        yield lambda row, learning_rate: None
        return
    from torch.utils.tensorboard import SummaryWriter

    curves = folder / TENSORBOARD
    curves.mkdir(exist_ok=True)
    with (
        utf_8_path(curves) as path,
        SummaryWriter(str(path), purge_step=steps_done + 1) as writer,
    ):

        def log(row: Mapping[str, float | int], learning_rate: float) -> None:
            for key in _TAGS.keys() & row.keys():
                writer.add_scalar(_TAGS[key], row[key], int(row["steps"]))
            writer.add_scalar("train/learning_rate", learning_rate, int(row["steps"]))
            writer.flush()

        yield log


def describe_part(part: Augment | Objective) -> dict[str, Any]:
    """Return the class of an augmentation or objective and its options.

    These are the fields of a dataclass, or what its method `describe` returns.
    """
    values = _plain(part)
    if isinstance(values, dict):
        return values
    return {"class": type(part).__qualname__}


def _plain(value: Any) -> Any:
    """Turn dataclasses, also nested in tuples, into dicts with their class.

    A tuple of these becomes a dict by position, so that a difference names the entry. What is no
    dataclass, such as an augmentation that holds a network, describes itself.
    """
    if not isinstance(value, type) and callable(describe := getattr(value, "describe", None)):
        return {"class": type(value).__qualname__, **describe()}
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
    processes: Processes = ONE_PROCESS,
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what determines a run, to detect changes on resuming.

    Of its initial weights that is the file that they are from, if `config` has it.
    The number of processes is part of it only if it changes more than the rounding and dropout's
    random numbers: with batch normalisation on CPUs, which is per process.
    """
    layers = {
        name or "whole": f"{type(m).__name__}({' '.join(m.extra_repr().split())})"
        for name, m in model.named_modules()
    }
    sets = {"train_set": train_set, "validation": validation}
    separate_statistics = (
        processes.count > 1
        and processes.device.type == "cpu"
        and any(isinstance(m, _BatchNorm) for m in model.modules())
    )
    return {
        **_network_identity(config or {}),
        "settings": settings.to_dict(),
        "augment": describe_part(augment),
        "objective": describe_part(objective),
        **{
            key: {"name": s.name, "images": len(s), "sha256": fingerprint(s)}
            for key, s in sets.items()
        },
        # By label, so that a difference names the class.
        "class_names": {str(i): name for i, name in enumerate(train_set.class_names)},
        "model": {"parameters": sum(p.numel() for p in model.parameters()), "layers": layers},
        **(
            {"batch_statistics": f"of each of {processes.count} processes"}
            if separate_statistics
            else {}
        ),
    }


def _network_identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the name of a network, its options, and the weights that it starts from."""
    spec = config.get("model")
    if not isinstance(spec, Mapping):
        return {}
    network = {key: spec[key] for key in ("name", "options") if key in spec}
    return {"network": {**network, "initial_weights": config.get("initial_weights", "new")}}


def check_same_call(identity: Mapping[str, Any], processes: Processes) -> None:
    """Raise ValueError on every process unless all were called with the same; collective.

    Args:
        identity: of the run that this process was called for.
        processes: of the run.
    """
    first = processes.broadcast(identity)
    with processes.raising_together():
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
    """Complete the caller's configuration with what the run knows."""
    run = {
        "settings": settings.to_dict(),
        "augment": describe_part(augment),
        "objective": describe_part(objective),
        "train_set": train_set.name,
        "best_epoch": result.best_epoch,
        "best_validation_accuracy": result.best_validation_accuracy,
        "steps": result.steps,
        **({"processes": processes} if processes > 1 else {}),
    }
    installed = versions()
    defaults: dict[str, Any] = {
        "train": run,
        "class_names": list(train_set.class_names),
        "versions": {
            "sign_ext": installed["sign-ext"],
            "torch": torch.__version__,
            "python": installed["python"],
        },
    }
    return {**defaults, **(config or {})}
