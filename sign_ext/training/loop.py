"""The training loop: data on the device, the epoch that is best on validation kept, resumable.

In one process it is plain PyTorch: what Lightning Fabric would do there is a `.to(device)` and an
autocast. Where a run spans several processes (`sign_ext.training.processes`), Fabric joins them and
wraps the forward pass of training in DistributedDataParallel, and nothing else: the model and the
optimiser stay the plain ones, whose tensors the run's state file needs by name.
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
from sign_ext.eval_state import arithmetic
from sign_ext.progress import Progress, reporting
from sign_ext.training.checkpoints import CHECKPOINT_NAME, save_checkpoint
from sign_ext.training.checks import check_model, check_sets, trains_all_parameters
from sign_ext.training.epoch import DeviceSet, Trainer, TrainingDivergedError, validate
from sign_ext.training.objective import CrossEntropy, Objective
from sign_ext.training.prepare_model import (
    flags_put_back,
    synchronised,
    training_forward,
    training_layout,
)
from sign_ext.training.processes import join_processes
from sign_ext.training.result import TrainResult
from sign_ext.training.rng import forked_rng
from sign_ext.training.run_folder import (
    check_same_call,
    complete,
    full_config,
    holds_state,
    open_folder,
    run_identity,
)
from sign_ext.training.scalars import ScalarLog, scalar_log
from sign_ext.training.settings import TrainSettings
from sign_ext.training.state import RunState, load_state, save_state


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

    Under torchrun the processes train one model together: each calls this with the same arguments
    and computes its part of each batch, `settings.batch_size` counting the images of all. Every
    one returns the same; the first writes `out` and shows the progress. See docs/training.md for
    what agrees with one process, and how far.

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
        device: "cpu", "cuda" or "cuda:INDEX"; of several processes each takes the CUDA device of
            its rank on its machine.
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
        ModuleNotFoundError: there are several processes, and Lightning Fabric is not installed.
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
    total = settings.total_steps(len(train_set))
    processes = join_processes(device)
    place, several = processes.device, processes.count > 1
    folder = None if out is None or not processes.first else Path(out)
    identity: dict[str, Any] = {}
    with ExitStack() as stack:
        with processes.agreeing():
            check_sets(train_set, validation)
            shown = progress if processes.first else False
            report = stack.enter_context(reporting(shown, total, "training"))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(arithmetic(settings.precision))
            stack.enter_context(forked_rng(place))
            stack.enter_context(flags_put_back(model))
            check_model(model.to(place), train_set, place, objective)
            all_trained = not several or trains_all_parameters(model, train_set, place, objective)
            if out is None and (resume or overwrite):
                raise ValueError(
                    "resume and overwrite are about the run in `out`: give out=FOLDER."
                )
            if out is not None or several:
                made_from = (model, train_set, validation, settings, augment, objective, processes)
                identity = run_identity(*made_from)
        if several:
            check_same_call(identity, processes)
        with processes.agreeing():
            if folder is not None:
                open_folder(folder, resume=resume, overwrite=overwrite)
            layout = stack.enter_context(training_layout(model, place, settings))
            trainable = [p for p in model.parameters() if p.requires_grad]
            optimizer = settings.build_optimizer(trainable)
            data = DeviceSet.place(train_set, place, layout)
            mine = processes.part(len(validation))
            measured = DeviceSet.place(validation, place, layout, mine)
            stack.enter_context(synchronised(model, processes))
        all_trained = processes.tell(all_trained)
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
        run = _Run(trainer, measured, folder, identity, RunState())
        if processes.tell(holds_state(folder)):
            run.state = load_state(folder, model, optimizer, identity, processes)
        with processes.agreeing():
            logged = folder if run.state.steps < total else None
            log = stack.enter_context(scalar_log(logged, run.state.steps))
        run.to_the_end(report or _nothing, log)
        processes.copy_first(run.state.best_weights.values())
        model.load_state_dict(run.state.best_weights)
    result = run.result()
    with processes.agreeing():
        if folder is not None and not complete(folder):
            told = (config, train_set, settings, augment, objective, result, processes.count)
            save_checkpoint(folder / CHECKPOINT_NAME, model, full_config(*told))
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
        state, total, processes = self.state, self.trainer.total_steps, self.trainer.processes
        began = time.monotonic() - state.seconds
        report(state.steps)
        while state.steps < total:
            row = self._epoch(state.epoch + 1, state.steps, report)
            state.add_epoch(row, self.trainer.model)
            state.seconds = processes.tell(time.monotonic() - began)
            with processes.agreeing():
                log(row, self.trainer.settings.rate_at(state.steps - 1, total))
                if self.folder is not None:
                    made = (self.trainer.model, self.trainer.optimizer, self.identity)
                    save_state(self.folder, state, *made, processes.count)

    def _epoch(
        self, epoch: int, steps_done: int, report: Callable[[int], None]
    ) -> dict[str, float | int]:
        trainer = self.trainer
        loss, accuracy, steps = trainer.run_epoch(epoch, steps_done, report)
        # Running statistics are each process's own until the first one's are taken for all.
        trainer.processes.copy_first(trainer.model.buffers())
        validation_loss, validation_accuracy = validate(
            trainer.model, self.validation, trainer.objective, trainer.processes
        )
        if validation_loss - validation_loss != 0:  # NaN or Inf
            raise TrainingDivergedError("The validation loss", epoch, steps)
        row: dict[str, float | int] = {
            "epoch": epoch,
            "train_loss": loss,
            "train_accuracy": accuracy,
            "validation_loss": validation_loss,
            "validation_accuracy": validation_accuracy,
            "steps": steps,
        }
        return trainer.processes.tell(row)

    def result(self) -> TrainResult:
        """Sum the run up."""
        state = self.state
        return TrainResult(
            state.history, state.best_epoch, state.best_accuracy, state.steps, state.seconds
        )


def _nothing(done: int) -> None:
    """Stand in for a report where nobody listens."""
