"""SIGN, Signed Input Regularization: add the input gradient of a last layer's sum, K times.

The core (`sign`, `engine`, `compiler`, `ops` and what they use) imports torch and numpy only, and
only when one of the names below is asked for: `import sign_ext` itself imports neither.
Imports run one way: commands → experiments → report → store, training, evaluation, augment,
models, data → sign → engine → compiler → ops → csrc.
"""

from typing import TYPE_CHECKING

from sign_ext.lazy_import import lazy_names

if TYPE_CHECKING:
    from sign_ext.attacks import pgd
    from sign_ext.attributions import integrated_gradients, smoothgrad
    from sign_ext.calibrate import Calibration
    from sign_ext.engine.fused.tuning_plan import TuningPlan
    from sign_ext.errors import (
        BackendError,
        DivergenceError,
        NegligibleDeltaWarning,
        PixelRangeWarning,
        SignError,
        SlowPrecisionWarning,
        SourceLayerError,
    )
    from sign_ext.iterate import InputIteration, iterate_inputs
    from sign_ext.model_inputs import Shared
    from sign_ext.ops.native import build_config
    from sign_ext.pushforward import jacobian, pullback_of_ones, pushforward
    from sign_ext.report.show import show
    from sign_ext.sign import SignTransform, iterative_sign
    from sign_ext.store.reader import load_transformed

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "Calibration",
    "DivergenceError",
    "InputIteration",
    "NegligibleDeltaWarning",
    "PixelRangeWarning",
    "Shared",
    "SignError",
    "SignTransform",
    "SlowPrecisionWarning",
    "SourceLayerError",
    "TuningPlan",
    "__version__",
    "build_config",
    "integrated_gradients",
    "iterate_inputs",
    "iterative_sign",
    "jacobian",
    "load_transformed",
    "pgd",
    "pullback_of_ones",
    "pushforward",
    "show",
    "smoothgrad",
]

lazy_names(
    __name__,
    {
        "sign_ext.attacks": ["pgd"],
        "sign_ext.attributions": ["integrated_gradients", "smoothgrad"],
        "sign_ext.calibrate": ["Calibration"],
        "sign_ext.engine.fused.tuning_plan": ["TuningPlan"],
        "sign_ext.errors": [
            "BackendError",
            "DivergenceError",
            "NegligibleDeltaWarning",
            "PixelRangeWarning",
            "SignError",
            "SlowPrecisionWarning",
            "SourceLayerError",
        ],
        "sign_ext.iterate": ["InputIteration", "iterate_inputs"],
        "sign_ext.model_inputs": ["Shared"],
        "sign_ext.ops.native": ["build_config"],
        "sign_ext.pushforward": ["jacobian", "pullback_of_ones", "pushforward"],
        "sign_ext.report.show": ["show"],
        "sign_ext.sign": ["SignTransform", "iterative_sign"],
        "sign_ext.store.reader": ["load_transformed"],
    },
)
