"""The training loop: data on the device, best epoch on validation kept, resumable.

In one process it is plain PyTorch, because Fabric would only add a `.to(device)` and an autocast
there. If a run spans several processes (`sign_ext.training.processes`), Lightning Fabric joins
them and wraps the forward pass of training in DistributedDataParallel. It wraps neither the model
nor the optimiser, whose tensors the run's state file stores by name.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sign_ext.augment import Augment, NoAugment
from sign_ext.data import ImageSet
from sign_ext.data.classes import remember_classes
from sign_ext.eval_state import arithmetic
from sign_ext.progress import Progress, reporting
from sign_ext.set_aside import discard
from sign_ext.slow_precision import warn_of_slow_precision
from sign_ext.training.checkpoints import CHECKPOINT_NAME, save_checkpoint
from sign_ext.training.checks import check_model, check_sets, trains_all_parameters
from sign_ext.training.epoch import (
    DeviceSet,
    Trainer,
    TrainingDivergedError,
    forked_rng,
    validate,
    validation_auc,
)
from sign_ext.training.objective import CrossEntropy, Objective
from sign_ext.training.prepare_model import (
    restored_flags,
    synchronised_batch_norm,
    training_forward,
    training_layout,
)
from sign_ext.training.processes import join_processes
from sign_ext.training.run_folder import (
    ScalarLog,
    check_same_call,
    complete,
    full_config,
    holds_state,
    old_run_until_an_epoch,
    open_folder,
    run_identity,
    scalar_log,
    without_empty_folders,
)
from sign_ext.training.settings import TrainSettings
from sign_ext.training.state import RunState, TrainResult, load_state, save_state


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
    """Train a model; it ends with the weights of the epoch that is best on validation.

    The paper selects "the epochs corresponding to the highest accuracies on the validation sets";
    of equal epochs the first is kept. The objective is minimised on shuffled batches. The run is a
    function of the settings, the data, the augmentation, the objective and the model's initial
    weights. On a CPU equal calls are bit-identical, given the same number of threads. The caller's
    random number generators are restored afterwards.

    Under torchrun the processes train one model together. Each calls this with the same arguments
    and computes its part of every batch; `settings.batch_size` counts the images of all. All
    return the same result; the first writes `out` and shows the progress. docs/training.md says
    how closely the result agrees with that of one process.

    Args:
        model: takes float32 pixels 0–255 and returns (N, classes) logits, or what `objective`
            expects. It is trained in place and moved to `device`, where it stays. Its training
            flags are restored at the end. Parameters with requires_grad=False do not change.
        train_set: uint8 or float32 images (N, C, H, W), copied to the device once.
        validation: evaluated after each epoch; also copied to the device.
        settings: TrainSettings() if None.
        augment: called on each training batch on the device; None does not augment.
        objective: CrossEntropy() if None; Aleatoric() for a model built with aleatoric=True
            (Section 3.2).
        device: "cpu", "cuda" or "cuda:INDEX"; with several processes each uses the CUDA device of
            its rank on its machine.
        out: folder for the run: last.safetensors after each epoch, tensorboard/ curves, and
            model.safetensors with model.json when the run is complete. None writes nothing.
        resume: continue the run in `out`, or start one if there is none. A complete run returns
            its result at once. On a CPU the result is bit-identical to an uninterrupted run's.
        overwrite: discard the run in `out`, once the first epoch is saved. It comes back if this
            call fails before that.
        progress: True for a bar on stderr, or a callable(done, total) in gradient steps, called
            before the first step (done is above 0 in a resumed run) and after each.
        config: plain JSON values for model.json; `config["model"]` lets load_checkpoint rebuild
            the model. "train", "class_names" and "versions" are filled in if absent.

    Returns:
        The run's history and its selected epoch, and in `doubt_of_learning` why that does not show
        that the network learnt, where it does not. The model's attribute ``class_names`` is set to
        the names of its classes, for `sign_ext.evaluation`.

    Raises:
        ValueError: settings, sets, model or `out` are invalid or do not match; the message says
            which.
        FileExistsError: `out` holds a run and neither resume nor overwrite is True, or files of a
            run's names that no run wrote, or a store.
        ModuleNotFoundError: there are several processes, and Lightning Fabric is not installed.
        TrainingDivergedError: the loss became NaN or Inf; `out` keeps the last good epoch.
            The model, as after any other exception, keeps the weights of the last step.

    Warns:
        SlowPrecisionWarning: `device` only emulates the bfloat16 that `settings` ask for.

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
    total = settings.total_steps(len(train_set))
    processes = join_processes(device)
    place, several = processes.device, processes.count > 1
    folder = None if out is None or not processes.first else Path(out)
    identity: dict[str, Any] = {}
    with ExitStack() as stack:
        stack.enter_context(without_empty_folders(folder))
        with processes.raising_together():
            check_sets(train_set, validation)
            if settings.select == "auc":
                _check_auc(validation, several)
            shown = progress if processes.first else False
            report = stack.enter_context(reporting(shown, total, "training"))
            stack.enter_context(_training_mode(model, place, settings))
            check_model(model.to(place), train_set, place, objective)
            if processes.first:
                warn_of_slow_precision(settings.precision, place)
            all_trained = not several or trains_all_parameters(model, train_set, place, objective)
            if out is None and (resume or overwrite):
                raise ValueError("resume and overwrite need the folder of a run: give out=FOLDER.")
            if out is not None or several:
                identity = run_identity(
                    model, train_set, validation, settings, augment, objective, processes, config
                )
        if several:
            check_same_call(identity, processes)
        with processes.raising_together():
            if folder is not None:
                stack.enter_context(old_run_until_an_epoch(folder))
                open_folder(folder, resume=resume, overwrite=overwrite)
            layout = stack.enter_context(training_layout(model, place, settings))
            trainable = [p for p in model.parameters() if p.requires_grad]
            optimizer = settings.build_optimizer(trainable)
            data = DeviceSet.place(train_set, place, layout)
            own_part = processes.part(len(validation))
            validation_part = DeviceSet.place(validation, place, layout, own_part)
            stack.enter_context(synchronised_batch_norm(model, processes))
        all_trained = processes.broadcast(all_trained)
        forward = training_forward(model, settings, processes, all_trained=all_trained)
        trainer = Trainer(
            model=model,
            optimizer=optimizer,
            settings=settings,
            augment=augment,
            data=data,
            total_steps=total,
            objective=objective,
            forward=stack.enter_context(forward),
            processes=processes,
        )
        run = _Run(trainer, validation_part, folder, identity, RunState())
        if processes.broadcast(holds_state(folder)):
            run.state = load_state(folder, model, optimizer, identity, processes)
        with processes.raising_together():
            logged = folder if run.state.steps < total else None
            log = stack.enter_context(scalar_log(logged, run.state.steps))
        run.finish_epochs(report or _ignore, log)
        processes.broadcast_tensors(run.state.best_weights.values())
        model.load_state_dict(run.state.best_weights)
        remember_classes(model, train_set.class_names)
    result = run.state.result(settings.select, validation.labels)
    with processes.raising_together():
        if folder is not None and not complete(folder):
            save_checkpoint(
                folder / CHECKPOINT_NAME,
                model,
                full_config(
                    config, train_set, settings, augment, objective, result, processes.count
                ),
            )
    return result


def _check_auc(validation: ImageSet, several: bool) -> None:
    labels = sorted(set(validation.labels.tolist()))
    if several or len(validation.class_names) != 2 or labels != [0, 1]:
        raise ValueError(
            f'select="auc" with {len(validation.class_names)} classes, validation labels '
            f"{labels[:5]} and {'several processes' if several else 'one process'}; accepted: two "
            'classes, both in the validation set, in one process. Use select="accuracy".'
        )


@contextmanager
def _training_mode(
    model: nn.Module, device: torch.device, settings: TrainSettings
) -> Iterator[None]:
    """Set PyTorch's global modes for training; restore them, the generators and the flags."""
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        arithmetic(settings.precision),
        forked_rng(device),
        restored_flags(model),
    ):
        yield


@dataclasses.dataclass
class _Run:
    """A run in progress: its trainer, its validation set and its state so far."""

    trainer: Trainer
    validation: DeviceSet
    folder: Path | None
    identity: dict[str, Any]
    state: RunState

    def finish_epochs(self, report: Callable[[int], None], log: ScalarLog) -> None:
        """Train the remaining epochs, saving the state after each."""
        state, total, processes = self.state, self.trainer.total_steps, self.trainer.processes
        began = time.monotonic() - state.seconds
        report(state.steps)
        while state.steps < total:
            row = self._epoch(state.epoch + 1, state.steps, report)
            state.add_epoch(row, self.trainer.model, self.trainer.settings.select)
            state.seconds = processes.broadcast(time.monotonic() - began)
            with processes.raising_together():
                # Curves before the state: an epoch that is logged but not saved is taken again,
                # and its points are then dropped (`scalar_log`).
                log(row, self.trainer.settings.rate_at(state.steps - 1, total))
                if self.folder is not None:
                    trained = (self.trainer.model, self.trainer.optimizer, self.identity)
                    save_state(self.folder, state, *trained, processes.count)
                    discard(self.folder)  # the run that this one replaces

    def _epoch(
        self, epoch: int, steps_done: int, report: Callable[[int], None]
    ) -> dict[str, float | int]:
        """Train and validate one epoch; return its row of the history."""
        trainer = self.trainer
        loss, accuracy, steps = trainer.run_epoch(epoch, steps_done, report)
        # On CPUs running statistics differ between processes: those of the first are kept.
        trainer.processes.broadcast_tensors(trainer.model.buffers())
        validation_loss, validation_accuracy = validate(
            trainer.model, self.validation, trainer.objective, trainer.processes
        )
        if not math.isfinite(validation_loss):
            raise TrainingDivergedError("The validation loss", epoch, steps)
        row: dict[str, float | int] = {
            "epoch": epoch,
            "train_loss": loss,
            "train_accuracy": accuracy,
            "validation_loss": validation_loss,
            "validation_accuracy": validation_accuracy,
            "steps": steps,
        }
        if trainer.settings.select == "auc":
            row["validation_auc"] = validation_auc(
                trainer.model, self.validation, trainer.objective
            )
        return trainer.processes.broadcast(row)


def _ignore(done: int) -> None:
    """Stand in for a progress report that nobody asked for."""
