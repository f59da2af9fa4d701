"""Training curves for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

FOLDER = "tensorboard"
_TAGS = {
    "train_loss": "train/loss",
    "train_accuracy": "train/accuracy",
    "validation_loss": "validation/loss",
    "validation_accuracy": "validation/accuracy",
}


class ScalarLog(Protocol):
    """Takes one row of a training history after each epoch."""

    def __call__(self, row: Mapping[str, float | int], learning_rate: float) -> None:
        """Write the row's values at its gradient step."""
        ...


@contextmanager
def scalar_log(out: Path | None, steps_done: int) -> Iterator[ScalarLog]:
    """Open out/tensorboard for the length of a run; without `out` nothing is written.

    Args:
        out: the run's folder.
        steps_done: gradient steps that the run's state holds. What an interrupted attempt logged
            beyond them is dropped, because those steps are taken again.
    """
    if out is None:
        yield lambda row, learning_rate: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(out / FOLDER), purge_step=steps_done + 1) as writer:

        def log(row: Mapping[str, float | int], learning_rate: float) -> None:
            for key, tag in _TAGS.items():
                writer.add_scalar(tag, row[key], int(row["steps"]))
            writer.add_scalar("train/learning_rate", learning_rate, int(row["steps"]))
            writer.flush()

        yield log


def remove_scalars(out: Path) -> None:
    """Remove the event files of an earlier run in the same folder."""
    for file in (out / FOLDER).glob("events.out.tfevents.*"):
        file.unlink()
