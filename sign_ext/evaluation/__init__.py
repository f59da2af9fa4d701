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
from sign_ext.evaluation.answers import Answers
from sign_ext.evaluation.calibration import (
    Reliability,
    UncertaintyScores,
    reliability,
    uncertainty_scores,
)
from sign_ext.evaluation.corruption import corruption_examples, gaussian_noise, pixels_off
from sign_ext.evaluation.crossed import Crossed, crossed, decide
from sign_ext.evaluation.delong import AucComponents, auc_components, auc_covariance
from sign_ext.evaluation.doubts import doubt_of_guessing, doubt_of_learning, warn_of_units
from sign_ext.evaluation.evaluate import Evaluation, evaluate
from sign_ext.evaluation.features import (
    Compactness,
    compactness,
    compactness_replicates,
    embed,
    features,
)
from sign_ext.evaluation.inputs_used import effective_inputs, zero_preactivations
from sign_ext.evaluation.paired import (
    Paired,
    detectable_difference,
    holm,
    paired,
    smallest_detectable,
)
from sign_ext.evaluation.planning import deviation_bound, seeds_needed
from sign_ext.evaluation.samples import (
    Samples,
    hierarchical_bootstrap,
    image_covariance,
    ranked,
)
from sign_ext.evaluation.uncertainty import (
    AleatoricPrediction,
    LowConfidence,
    LowConfidenceRow,
    answer_uncertainly,
    low_confidence,
    measure_uncertainty,
    predict_aleatoric,
)

__all__ = [
    "AleatoricPrediction",
    "Answers",
    "AucComponents",
    "Compactness",
    "Crossed",
    "Evaluation",
    "LowConfidence",
    "LowConfidenceRow",
    "Paired",
    "PresentClassAccuracy",
    "Reliability",
    "Samples",
    "UncertaintyScores",
    "answer_uncertainly",
    "auc_components",
    "auc_covariance",
    "class_accuracy",
    "compactness",
    "compactness_replicates",
    "corruption_examples",
    "crossed",
    "decide",
    "detectable_difference",
    "deviation_bound",
    "doubt_of_guessing",
    "doubt_of_learning",
    "effective_inputs",
    "embed",
    "evaluate",
    "features",
    "gaussian_noise",
    "hierarchical_bootstrap",
    "holm",
    "image_covariance",
    "low_confidence",
    "measure_uncertainty",
    "paired",
    "pixels_off",
    "predict",
    "predict_aleatoric",
    "present_class_accuracy",
    "ranked",
    "reliability",
    "roc_auc",
    "roc_curve",
    "seeds_needed",
    "smallest_detectable",
    "uncertainty_scores",
    "warn_of_units",
    "zero_preactivations",
]
