"""The native operators: one typed function each, with its reference in plain torch beside it."""

from sign_ext.ops.native import build_config
from sign_ext.ops.sign_update import (
    sign_update_,
    sign_update_reference_,
    sign_update_route,
)

__all__ = ["build_config", "sign_update_", "sign_update_reference_", "sign_update_route"]
