"""The settings of a training run, and what follows from them: steps, rates, optimiser."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sign_ext.formatting import ADDED, plain
from sign_ext.settings import PRECISIONS

if TYPE_CHECKING:
    import torch
    from torch import nn

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "cosine")
SELECTIONS = ("accuracy", "auc")


@dataclass(frozen=True)
class TrainSettings:
    """The settings of a training run, apart from model, data, augmentation and objective.

    Args:
        epochs: passes over the training set.
        batch_size: images per gradient step (128 in the paper).
        learning_rate: of the optimiser; the paper states neither of the two.
        optimizer: "adam", "adamw", or "sgd" (with Nesterov momentum 0.9).
        weight_decay: L2 term for "adam" and "sgd", decoupled for "adamw".
        schedule: "constant", or "cosine" from learning_rate to 0 over the run's steps.
        max_steps: stop after this many gradient steps even if epochs remain, so that training
            sets of different sizes can get the same number of updates; None sets no cap.
        precision: "float32" (IEEE), "tf32" (CUDA's matrix units, float32 in memory) or "bfloat16"
            (forward and backward under autocast; weights, optimiser and validation stay float32).
        compile: use torch.compile while training. Compiling takes seconds to minutes for each
            batch size, so it pays off in long runs; on a CPU it needs a C++ compiler. A model that
            cannot be compiled as one graph is an error.
        checkpoints: validate so many times, evenly spaced over the run's gradient steps, so that
            runs on sets of different sizes choose among as many checkpoints; None validates after
            each epoch.
        select: what selects the best checkpoint, "accuracy" or, for two classes, "auc", the area
            under the ROC curve: where most images are of one class, the accuracy of a network
            that has learnt nothing is hard to beat. "auc" needs a single process.
        seed: of the batch order, the augmentation, dropout and losses that draw.

    Raises:
        ValueError: a value is out of range; the message names it.

    Example:
        >>> TrainSettings(epochs=3, schedule="cosine").total_steps(1000)
        24
    """

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 1e-3
    optimizer: str = "adam"
    weight_decay: float = 0.0
    schedule: str = "constant"
    max_steps: int | None = None
    precision: str = "float32"
    compile: bool = False
    seed: int = 0
    checkpoints: int | None = dataclasses.field(default=None, metadata=ADDED)
    select: str = dataclasses.field(default="accuracy", metadata=ADDED)

    def __post_init__(self) -> None:
        """Check every value, so that a wrong one fails before any data is read."""
        _check_integer("epochs", self.epochs, 1)
        _check_integer("batch_size", self.batch_size, 1)
        _check_integer("seed", self.seed, 0)
        if self.max_steps is not None:
            _check_integer("max_steps", self.max_steps, 1, "; None sets no cap")
        if self.checkpoints is not None:
            _check_integer("checkpoints", self.checkpoints, 1, "; None validates after each epoch")
        _check_number("learning_rate", self.learning_rate, above_zero=True)
        _check_number("weight_decay", self.weight_decay, above_zero=False)
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check_choice("select", self.select, SELECTIONS)
        _check_choice("precision", self.precision, PRECISIONS)
        if not isinstance(self.compile, bool):
            raise ValueError(f"compile must be True or False; got {self.compile!r}.")

    def total_steps(self, images: int) -> int:
        """Count the gradient steps of a run over a training set of `images` images."""
        full = self.epochs * steps_per_epoch(images, self.batch_size)
        return full if self.max_steps is None else min(full, self.max_steps)

    def steps_at(self, checkpoint: int, images: int) -> int:
        """Count the gradient steps up to a checkpoint, by default the end of an epoch.

        Args:
            checkpoint: counted from 1; the last one is at the run's end.
            images: in the training set.

        Example:
            >>> settings = TrainSettings(epochs=3, schedule="cosine", checkpoints=5)
            >>> [settings.steps_at(checkpoint, 1000) for checkpoint in (1, 2, 5)]
            [4, 9, 24]
        """
        total = self.total_steps(images)
        if self.checkpoints is None:
            return min(total, checkpoint * steps_per_epoch(images, self.batch_size))
        return checkpoint * total // min(self.checkpoints, total)

    def rate_at(self, step: int, total: int) -> float:
        """Return the learning rate of gradient step `step` (from 0) of `total`."""
        if self.schedule == "constant":
            return self.learning_rate
        return 0.5 * self.learning_rate * (1.0 + math.cos(math.pi * step / total))

    def build_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Build the optimiser in PyTorch's fused form: one pass over each weight."""
        import torch

        options: dict[str, Any] = {
            "lr": self.learning_rate,
            "weight_decay": self.weight_decay,
            "fused": True,
        }
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, **options)
        if self.optimizer == "adamw":
            return torch.optim.AdamW(parameters, **options)
        return torch.optim.SGD(parameters, momentum=0.9, nesterov=True, **options)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values for JSON.

        Without `checkpoints` and `select` where they are the defaults, so that runs from before
        they existed are the same.
        """
        values: dict[str, Any] = plain(self)
        return values


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Count the gradient steps of one pass: every image once, the last partial batch kept.

    A last batch that would hold a single image joins the batch before it, because batch
    normalisation has no variance to estimate from one sample.

    Args:
        images: in the training set.
        batch_size: of every batch but the last.

    Returns:
        The number of batches, at least 1.

    Example:
        >>> steps_per_epoch(1000, 128), steps_per_epoch(257, 128)
        (8, 2)
    """
    full, rest = divmod(images, batch_size)
    if full == 0:
        return 1
    return full + (1 if rest > 1 or (rest == 1 and batch_size == 1) else 0)


def _check_integer(name: str, value: object, least: int, more: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}{more}; got {value!r}.")


def _check_number(name: str, value: object, *, above_zero: bool) -> None:
    wanted = "above 0" if above_zero else "of at least 0"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0 or (above_zero and value == 0):  # type: ignore[arg-type,operator]
        raise ValueError(f"{name} must be a finite number {wanted}; got {value!r}.")


def _check_choice(name: str, value: object, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        close = difflib.get_close_matches(str(value), accepted, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{name} must be one of {', '.join(accepted)}; got {value!r}.{hint}")
