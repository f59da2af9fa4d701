"""Training: one loop, its settings, its resumable state and its checkpoints.

May import augment, models, data and what is below them; never store or evaluation.
"""

from sign_ext.training.checkpoints import load_checkpoint, save_checkpoint
from sign_ext.training.loop import train
from sign_ext.training.objective import Aleatoric, CrossEntropy, Objective
from sign_ext.training.settings import TrainSettings, steps_per_epoch
from sign_ext.training.state import TrainResult

__all__ = [
    "Aleatoric",
    "CrossEntropy",
    "Objective",
    "TrainResult",
    "TrainSettings",
    "load_checkpoint",
    "save_checkpoint",
    "steps_per_epoch",
    "train",
]
