"""The folder of a run: made, opened or refused at the start, complete at the end."""

from __future__ import annotations

from pathlib import Path

from sign_ext.training.checkpoints import CHECKPOINT_NAME
from sign_ext.training.scalars import remove_scalars
from sign_ext.training.state import STATE_NAME, peek


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
