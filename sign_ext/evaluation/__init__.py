"""Measurements of a trained classifier: accuracy, calibration, uncertainty, features.

May import models, data and the core; report, experiments and commands use it.
"""

from sign_ext.evaluation.accuracy import (
    PresentClassAccuracy,
    class_accuracy,
    predict,
    present_class_accuracy,
    roc_auc,
    roc_curve,
)
from sign_ext.evaluation.calibration import (
    Reliability,
    UncertaintyScores,
    reliability,
    uncertainty_scores,
)
from sign_ext.evaluation.corruption import corruption_examples, gaussian_noise, pixels_off
from sign_ext.evaluation.doubts import doubt_of_guessing, warn_of_units
from sign_ext.evaluation.evaluate import Evaluation, evaluate
from sign_ext.evaluation.features import Compactness, compactness, embed, features
from sign_ext.evaluation.paired import Paired, detectable_difference, holm, paired
from sign_ext.evaluation.uncertainty import (
    AleatoricPrediction,
    LowConfidence,
    LowConfidenceRow,
    low_confidence,
    measure_uncertainty,
    predict_aleatoric,
)

__all__ = [
    "AleatoricPrediction",
    "Compactness",
    "Evaluation",
    "LowConfidence",
    "LowConfidenceRow",
    "Paired",
    "PresentClassAccuracy",
    "Reliability",
    "UncertaintyScores",
    "class_accuracy",
    "compactness",
    "corruption_examples",
    "detectable_difference",
    "doubt_of_guessing",
    "embed",
    "evaluate",
    "features",
    "gaussian_noise",
    "holm",
    "low_confidence",
    "measure_uncertainty",
    "paired",
    "pixels_off",
    "predict",
    "predict_aleatoric",
    "present_class_accuracy",
    "reliability",
    "roc_auc",
    "roc_curve",
    "uncertainty_scores",
    "warn_of_units",
]
