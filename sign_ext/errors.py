"""The errors and warnings that sign_ext raises beyond Python's own."""

from __future__ import annotations


class SignError(RuntimeError):
    """Base class of sign_ext's own errors."""


class SourceLayerError(SignError):
    """Φ, "the output of the last layer (before the logits)", cannot be found or cannot be used."""


class BackendError(SignError):
    """A backend asked for by name cannot run this network here."""


class DivergenceError(SignError):
    """The iterates left the finite numbers.

    Attributes:
        step: the first step k (counted from 1) whose δ_k or p*_k is not finite.
    """

    def __init__(self, message: str, step: int) -> None:
        """Keep the step beside the message."""
        super().__init__(message)
        self.step = step


class NegligibleDeltaWarning(UserWarning):
    """δ is so small that the images do not change: usually a source layer with a constant sum."""


# The one error of the compiler.


class UnsupportedOperation(BackendError):
    """The compiler does not know an operation of the network; the message names it."""


# What can be wrong with a store.


class StoreError(SignError):
    """A store that is unfinished, damaged, or cannot be written."""


class StoreInUseError(StoreError):
    """Another run is writing this store."""
