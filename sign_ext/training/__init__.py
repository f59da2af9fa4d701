"""Training: one loop, its settings, its resumable state and its checkpoints.

May import augment, models, data and what is below them; never store or evaluation.
"""

from typing import TYPE_CHECKING

from sign_ext.lazy_import import lazy_names

if TYPE_CHECKING:
    from sign_ext.training.checkpoints import load_checkpoint, save_checkpoint
    from sign_ext.training.loop import train
    from sign_ext.training.objective import Aleatoric, CrossEntropy, Objective
    from sign_ext.training.settings import TrainSettings, steps_per_epoch
    from sign_ext.training.state import TrainResult, doubt_of_training

__all__ = [
    "Aleatoric",
    "CrossEntropy",
    "Objective",
    "TrainResult",
    "TrainSettings",
    "doubt_of_training",
    "load_checkpoint",
    "save_checkpoint",
    "steps_per_epoch",
    "train",
]

lazy_names(
    __name__,
    {
        "sign_ext.training.checkpoints": ["load_checkpoint", "save_checkpoint"],
        "sign_ext.training.loop": ["train"],
        "sign_ext.training.objective": ["Aleatoric", "CrossEntropy", "Objective"],
        "sign_ext.training.settings": ["TrainSettings", "steps_per_epoch"],
        "sign_ext.training.state": ["TrainResult", "doubt_of_training"],
    },
)
