"""The one error of the compiler."""

from __future__ import annotations

from sign_ext.errors import BackendError


class UnsupportedOperation(BackendError):
    """The compiler does not know an operation of the network; the message names it."""
