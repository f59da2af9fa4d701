"""What can be wrong with a store."""

from __future__ import annotations

from sign_ext.errors import SignError


class StoreError(SignError):
    """A store that is unfinished, damaged, or cannot be written."""


class StoreInUseError(StoreError):
    """Another run is writing this store."""
