"""Rules for padding: with a constant, or with the image itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sign_ext.compiler.builder import stored
from sign_ext.compiler.ir.border import MODES, Border
from sign_ext.compiler.ir.op import Op, Shape
from sign_ext.compiler.ir.shaping import Pad
from sign_ext.compiler.lower import Builder, Ref, lowers, require_image
from sign_ext.compiler.rules.signal import image_of, row_of, signal_of
from sign_ext.compiler.rules.volume import along_depth, on_planes, volume
from sign_ext.errors import UnsupportedOperation


@lowers("pad.default", "constant_pad_nd.default", views=True)
def pad(
    builder: Builder,
    shape: Shape,
    x: Ref,
    amounts: Sequence[int],
    mode: Any = "constant",
    value: float | None = None,
) -> Ref:
    """pad(x, amounts, mode, value); the constant form takes its value in place of the mode."""
    if not isinstance(mode, str):
        mode, value = "constant", mode
    kind: type[Op] = Border
    options: dict[str, Any] = {"mode": mode}
    if mode == "constant":
        kind, options = Pad, {"value": float(value or 0)}
    elif mode not in MODES or min(amounts) < 0:
        raise UnsupportedOperation(f"padding by {mode} of {tuple(amounts)}")
    axes = len(x.view.shape) - 1
    if len(amounts) > 2 * axes and any(amounts[2 * axes :]):
        raise UnsupportedOperation("padding of channels")
    left, right, top, bottom, front, back = (*amounts[: 2 * axes], 0, 0, 0, 0, 0, 0)[:6]
    if axes == 3:
        return _padded_volume(
            builder, shape, x, kind, options, (left, right, top, bottom), (front, back)
        )
    image = image_of(builder, x) if axes == 1 else stored(builder, x)
    require_image(image)
    if any(amounts):
        row = row_of(shape) if axes == 1 else shape
        image = builder.add(kind, (image,), row, amounts=(left, right, top, bottom), **options)
    return signal_of(image) if axes == 1 else image


def _padded_volume(
    builder: Builder,
    shape: Shape,
    x: Ref,
    kind: type[Op],
    options: dict[str, Any],
    around: tuple[int, int, int, int],
    planes: tuple[int, int],
) -> Ref:
    """Around each plane, then planes."""
    x = volume(builder, x)
    if any(around):
        x = on_planes(builder, x, kind, (shape[0], *shape[2:]), amounts=around, **options)
    if any(planes):
        ends = (0, 0, *planes)
        x = along_depth(builder, x, kind, shape[0], shape[1], amounts=ends, **options)
    return x


@lowers("reflection_pad2d.default", views=True)
def reflection_pad2d(builder: Builder, shape: Shape, x: Ref, amounts: Sequence[int]) -> Ref:
    """pad(x, mode="reflect")."""
    return pad(builder, shape, x, amounts, "reflect")


@lowers("replication_pad2d.default", views=True)
def replication_pad2d(builder: Builder, shape: Shape, x: Ref, amounts: Sequence[int]) -> Ref:
    """pad(x, mode="replicate")."""
    return pad(builder, shape, x, amounts, "replicate")
