"""Indices of elements, brought to the device once; what runs is as for all operations on views."""

from __future__ import annotations

from sign_ext.compiler.ir.take import Take
from sign_ext.engine.fused.bind.context import BindContext, prepares


@prepares(Take)
def indices(context: BindContext, place: int, op: Take) -> Take:
    """The operation with its indices on the device."""
    return op.on(context.device)
