"""The errors and warnings that sign_ext raises beyond Python's own."""

from __future__ import annotations

import sys


class SignError(RuntimeError):
    """Base class of sign_ext's own errors."""


class SourceLayerError(SignError):
    """Φ, "the output of the last layer (before the logits)", cannot be found or cannot be used."""


class BackendError(SignError):
    """A backend asked for by name cannot run this network here."""


class UnsupportedOperation(BackendError):
    """The compiler does not know an operation of the network; the message names it."""


class DivergenceError(SignError):
    """An iterate is no longer finite.

    Attributes:
        step: the first step k (counted from 1) whose δ_k or p*_k is not finite.
    """

    def __init__(self, message: str, step: int) -> None:
        """Keep the step next to the message."""
        super().__init__(message)
        self.step = step


class StoreError(SignError):
    """A store is unfinished, damaged, or cannot be written.

    Attributes:
        details: a line for each of several faults that the message lists.
        summary: the message without those lines.
    """

    details: tuple[str, ...] = ()
    summary: str = ""


class StoreInUseError(StoreError):
    """Another run is writing this store."""


class NegligibleDeltaWarning(UserWarning):
    """δ is so small that images do not change, or little of the sum over Φ varies at all.

    Usually Φ follows a LayerNorm, after which the sum of the features is constant.
    """


class PixelRangeWarning(UserWarning):
    """Images are in other units than the network takes, or span another range than was said."""


class SlowPrecisionWarning(UserWarning):
    """The precision asked for is emulated on this device, and slower than float32."""


def first_line(error: BaseException) -> str:
    """An error's first line, with its class unless it is one of ours."""
    line = next(iter(str(error).strip().splitlines()), "")
    kind = type(error).__name__
    return line if isinstance(error, SignError) else f"{kind}: {line}" if line else kind


def level_of_the_caller() -> int:
    """The stack level, for the function that asks, of the first frame outside of this package."""
    level, frame = 1, sys._getframe(1)
    package = __name__.partition(".")[0] + "."
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(package):
        level, frame = level + 1, frame.f_back
    return level
