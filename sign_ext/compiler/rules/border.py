"""Padding that is not constant; its rule is that of all padding, in `shaping`."""

from __future__ import annotations

from collections.abc import Sequence

from sign_ext.compiler.ir.border import MODES, Border
from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.lower import Builder, Ref, lowers, require_image
from sign_ext.errors import UnsupportedOperation


def bordered(builder: Builder, shape: Shape, x: Ref, amounts: Sequence[int], mode: str) -> Ref:
    """An image with rows and columns of its own around it.

    Args:
        builder: the program so far.
        shape: one image's, of the output.
        x: the value.
        amounts: (left, right, top, bottom).
        mode: as in torch.nn.functional.pad.
    """
    require_image(x)
    if mode not in MODES or len(amounts) != 4 or min(amounts) < 0:
        raise UnsupportedOperation(f"padding by {mode} of {tuple(amounts)}")
    if not any(amounts):
        return x
    left, right, top, bottom = amounts
    return builder.add(Border, (x,), shape, amounts=(left, right, top, bottom), mode=mode)


@lowers("reflection_pad2d.default")
def reflection_pad2d(builder: Builder, shape: Shape, x: Ref, amounts: Sequence[int]) -> Ref:
    """pad(x, mode="reflect")."""
    return bordered(builder, shape, x, amounts, "reflect")


@lowers("replication_pad2d.default")
def replication_pad2d(builder: Builder, shape: Shape, x: Ref, amounts: Sequence[int]) -> Ref:
    """pad(x, mode="replicate")."""
    return bordered(builder, shape, x, amounts, "replicate")
