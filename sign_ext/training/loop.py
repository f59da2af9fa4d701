"""The training loop: data on the device, the epoch that is best on validation kept, resumable.

It is plain PyTorch. On one device what Lightning Fabric would do here is a `.to(device)` and an
autocast, and in return it wraps the model and the optimiser, whose tensors the run's state file
needs by name; it earns its place when a run spans several devices.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sign_ext.augment import Augment, NoAugment
from sign_ext.data import ImageSet
from sign_ext.precision import arithmetic
from sign_ext.progress import Progress, reporting
from sign_ext.training.checkpoints import CHECKPOINT_NAME, save_checkpoint
from sign_ext.training.checks import check_model, check_sets, resolve_device
from sign_ext.training.describe import full_config, run_identity
from sign_ext.training.epoch import DeviceSet, Trainer, TrainingDivergedError, validate
from sign_ext.training.layout import flags_put_back, training_forward, training_layout
from sign_ext.training.objective import CrossEntropy, Objective
from sign_ext.training.result import TrainResult
from sign_ext.training.rng import forked_rng
from sign_ext.training.scalars import ScalarLog, remove_scalars, scalar_log
from sign_ext.training.settings import TrainSettings
from sign_ext.training.state import STATE_NAME, RunState, load_state, peek, save_state


def train(
    model: nn.Module,
    train_set: ImageSet,
    validation: ImageSet,
    settings: TrainSettings | None = None,
    *,
    augment: Augment | None = None,
    objective: Objective | None = None,
    device: str | torch.device = "cpu",
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = False,
    config: Mapping[str, Any] | None = None,
) -> TrainResult:
    """Train a model and leave in it the weights of the epoch that is best on validation.

    The paper selects "the epochs corresponding to the highest accuracies on the validation sets";
    of equal epochs the earlier is kept. The objective is minimised on shuffled batches. The run is
    a function of the settings, the data, the augmentation, the objective and the model's initial
    weights: equal calls give equal bits on a CPU (with the same number of threads), and the
    caller's random number generators are as before afterwards.

    Args:
        model: float32 pixels 0–255 in, (N, classes) logits out, or what `objective` is for.
            Trained in place and moved to `device`, where it stays; its training flags are put
            back at the end. Parameters with requires_grad=False stay as they are.
        train_set: uint8 or float32 images (N, C, H, W), copied to the device once.
        validation: measured after each epoch; it also moves to the device.
        settings: TrainSettings() if None.
        augment: called on each training batch on the device; none if None.
        objective: CrossEntropy() if None; Aleatoric() for a model that was built with
            aleatoric=True (Section 3.2).
        device: "cpu", "cuda" or "cuda:INDEX".
        out: folder for the run: last.safetensors after each epoch, tensorboard/ curves, and
            model.safetensors with model.json when the run is complete. None writes nothing.
        resume: continue the run in `out`; begin one if there is none yet; return at once what a
            complete one returned. Bit for bit on a CPU what an uninterrupted run gives.
        overwrite: discard the run in `out`.
        progress: True for a bar on stderr, or a callable(done, total) in gradient steps, called
            before the first step (done is above 0 in a resumed run) and after each.
        config: plain JSON values for model.json; `config["model"]` lets load_checkpoint rebuild
            the model. "train", "class_names" and "versions" are filled in if absent.

    Returns:
        The run's history and its selected epoch.

    Raises:
        ValueError: settings, sets, model or `out` that do not fit; the message says which.
        FileExistsError: `out` holds a run and neither resume nor overwrite was asked for.
        TrainingDivergedError: the loss became NaN or Inf; `out` keeps the last good epoch, the
            model what the last step left in it (so it does after any other exception).

    Example:
        >>> from sign_ext.augment import Classical
        >>> from sign_ext.data import load_data
        >>> from sign_ext.models import build_model
        >>> data = load_data("digits", train_size=200)
        >>> settings = TrainSettings(epochs=1)
        >>> result = train(
        ...     build_model("basic_cnn"), data.train, data.validation, settings, augment=Classical()
        ... )
        >>> result.steps
        2
    """
    settings = TrainSettings() if settings is None else settings
    augment = NoAugment() if augment is None else augment
    objective = CrossEntropy() if objective is None else objective
    place = resolve_device(device)
    check_sets(train_set, validation)
    folder = None if out is None else Path(out)
    total = settings.total_steps(len(train_set))
    with ExitStack() as stack:
        report = stack.enter_context(reporting(progress, total, "training"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(arithmetic(settings.precision))
        stack.enter_context(forked_rng(place))
        stack.enter_context(flags_put_back(model))
        check_model(model.to(place), train_set, place, objective)
        if folder is not None:
            _open_folder(folder, resume=resume, overwrite=overwrite)
        elif resume or overwrite:
            raise ValueError("resume and overwrite are about the run in `out`: give out=FOLDER.")
        layout = stack.enter_context(training_layout(model, place, settings))
        trainable = [p for p in model.parameters() if p.requires_grad]
        trainer = Trainer(
            model=model,
            optimizer=settings.build_optimizer(trainable),
            settings=settings,
            augment=augment,
            data=DeviceSet.place(train_set, place, layout),
            total_steps=total,
            objective=objective,
            forward=stack.enter_context(training_forward(model, settings)),
        )
        run = _Run(trainer, DeviceSet.place(validation, place, layout), folder, {}, RunState())
        if folder is not None:
            run.identity = run_identity(model, train_set, validation, settings, augment, objective)
            if (folder / STATE_NAME).is_file():
                run.state = load_state(folder, model, trainer.optimizer, run.identity)
        with scalar_log(folder if run.state.steps < total else None, run.state.steps) as log:
            run.to_the_end(report or _nothing, log)
        model.load_state_dict(run.state.best_weights)
    result = run.result()
    if folder is not None and not _complete(folder):
        full = full_config(config, train_set, settings, augment, objective, result)
        save_checkpoint(folder / CHECKPOINT_NAME, model, full)
    return result


@dataclasses.dataclass
class _Run:
    """A run under way: its trainer, its validation set, and where it stands."""

    trainer: Trainer
    validation: DeviceSet
    folder: Path | None
    identity: dict[str, Any]
    state: RunState

    def to_the_end(self, report: Callable[[int], None], log: ScalarLog) -> None:
        """Take the epochs that are left, saving the state after each."""
        state, total = self.state, self.trainer.total_steps
        began = time.monotonic() - state.seconds
        report(state.steps)
        while state.steps < total:
            row = self._epoch(state.epoch + 1, state.steps, report)
            state.add_epoch(row, self.trainer.model)
            state.seconds = time.monotonic() - began
            log(row, self.trainer.settings.rate_at(state.steps - 1, total))
            if self.folder is not None:
                model, optimizer = self.trainer.model, self.trainer.optimizer
                save_state(self.folder, state, model, optimizer, self.identity)

    def _epoch(
        self, epoch: int, steps_done: int, report: Callable[[int], None]
    ) -> dict[str, float | int]:
        trainer = self.trainer
        loss, accuracy, steps = trainer.run_epoch(epoch, steps_done, report)
        validation_loss, validation_accuracy = validate(
            trainer.model, self.validation, trainer.objective
        )
        if validation_loss - validation_loss != 0:  # NaN or Inf
            raise TrainingDivergedError("The validation loss", epoch, steps)
        return {
            "epoch": epoch,
            "train_loss": loss,
            "train_accuracy": accuracy,
            "validation_loss": validation_loss,
            "validation_accuracy": validation_accuracy,
            "steps": steps,
        }

    def result(self) -> TrainResult:
        """Sum the run up."""
        state = self.state
        return TrainResult(
            state.history, state.best_epoch, state.best_accuracy, state.steps, state.seconds
        )


def _nothing(done: int) -> None:
    """Stand in for a report where nobody listens."""


def _open_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Make the folder, and settle what happens to a run that it holds."""
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


def _complete(folder: Path) -> bool:
    checkpoint = folder / CHECKPOINT_NAME
    return checkpoint.is_file() and checkpoint.with_suffix(".json").is_file()
