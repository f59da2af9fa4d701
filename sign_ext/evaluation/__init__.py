"""What is measured of a trained classifier."""

from sign_ext.evaluation.accuracy import class_accuracy, predict
from sign_ext.evaluation.corruption import gaussian_noise, pixels_off
from sign_ext.evaluation.evaluate import Evaluation, evaluate

__all__ = [
    "Evaluation",
    "class_accuracy",
    "evaluate",
    "gaussian_noise",
    "pixels_off",
    "predict",
]
