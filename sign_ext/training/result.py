"""What a training run reports: its curves and which epoch was kept."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TrainResult:
    """The history of a training run and its selected epoch.

    Attributes:
        history: one dict an epoch with the keys epoch (from 1), train_loss, train_accuracy
            (averages over the epoch's augmented batches while the weights were changing),
            validation_loss, validation_accuracy (after the epoch) and steps (gradient steps so
            far). An epoch that max_steps cut short has its row too.
        best_epoch: the epoch of the highest validation accuracy, the earlier one of equals.
        best_validation_accuracy: in 0–1.
        steps: gradient steps taken.
        seconds: wall-clock time of training and validation, over all resumed parts.
    """

    history: list[dict[str, float | int]]
    best_epoch: int
    best_validation_accuracy: float
    steps: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values for JSON."""
        return dataclasses.asdict(self)
