"""SIGN, Signed Input Regularization: add the input gradient of a last layer's sum, K times.

The core (`sign`, `engine`, `compiler`, `ops` and what they use) imports torch and numpy only.
Imports run one way: commands → experiments → report → store, training, evaluation, augment,
models, data → sign → engine → compiler → ops → csrc.
"""

from typing import TYPE_CHECKING, Any

from sign_ext.calibrate import Calibration
from sign_ext.engine.fused.tuning_plan import TuningPlan
from sign_ext.errors import (
    BackendError,
    DivergenceError,
    NegligibleDeltaWarning,
    PixelRangeWarning,
    SignError,
    SourceLayerError,
)
from sign_ext.model_inputs import Shared
from sign_ext.ops.native import build_config
from sign_ext.pushforward import jacobian, pullback_of_ones, pushforward
from sign_ext.sign import SignTransform, iterative_sign

if TYPE_CHECKING:
    from sign_ext.store import load_transformed

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "Calibration",
    "DivergenceError",
    "NegligibleDeltaWarning",
    "PixelRangeWarning",
    "Shared",
    "SignError",
    "SignTransform",
    "SourceLayerError",
    "TuningPlan",
    "__version__",
    "build_config",
    "iterative_sign",
    "jacobian",
    "load_transformed",
    "pullback_of_ones",
    "pushforward",
]


def __getattr__(name: str) -> Any:
    """Import what is above the core only when it is asked for: the core needs torch alone."""
    if name == "load_transformed":
        from sign_ext.store import load_transformed

        return load_transformed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
