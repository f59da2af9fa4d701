"""Rules for padding: with a constant, or with the image itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sign_ext.compiler.builder import in_network_order, stored
from sign_ext.compiler.ir.border import MODES, Border
from sign_ext.compiler.ir.framewise import Framewise, framed
from sign_ext.compiler.ir.op import Op, Shape, count
from sign_ext.compiler.ir.shaping import Pad
from sign_ext.compiler.ir.view import View, stored_shape
from sign_ext.compiler.lower import Builder, Ref, lowers, require_image
from sign_ext.compiler.rules.signal import image_of, row_of, signal_of
from sign_ext.compiler.rules.volume import along_depth, on_planes, volume
from sign_ext.errors import UnsupportedOperation


@lowers("pad.default", "constant_pad_nd.default", whole=True)
def pad(
    builder: Builder,
    sizes: Sequence[int],
    x: Ref,
    amounts: Sequence[int],
    mode: Any = "constant",
    value: float | None = None,
) -> Ref:
    """pad(x, amounts, mode, value); the constant form takes its value in place of the mode."""
    if not any(amounts):
        return x
    if x.images:
        raise UnsupportedOperation("the images are not in the first dimension")
    if not isinstance(mode, str):
        mode, value = "constant", mode
    kind: type[Op] = Border
    options: dict[str, Any] = {"mode": mode}
    if mode == "constant":
        kind, options = Pad, {"value": float(value or 0)}
    elif mode not in MODES or min(amounts) < 0:
        raise UnsupportedOperation(f"padding by {mode} of {tuple(amounts)}")
    if x.merged:
        return _padded_rows(builder, in_network_order(builder, x), kind, options, amounts)
    shape = tuple(sizes[1:])
    last = View.of_stored(x.shape).permuted((1, 2, 0)) if len(x.shape) == 3 else None
    if x.view == last and not any(amounts[:2]):  # the channels are in the last dimension
        image = (shape[-1], *shape[:-1])
        found = _padded(builder, image, Ref(x.number, x.shape), kind, options, amounts[2:])
        return found.seen(View.of_stored(found.shape).permuted((1, 2, 0)))
    if len(shape) == 2:
        row = _padded(builder, row_of(shape), image_of(builder, x), kind, options, amounts, axes=1)
        return signal_of(row)
    if len(shape) == 4:
        return _padded_volume(builder, shape, volume(builder, x), kind, options, amounts)
    return _padded(builder, shape, stored(builder, x), kind, options, amounts)


def _sides(amounts: Sequence[int], axes: int) -> tuple[int, ...]:
    """Amounts before and after each axis, the last one first."""
    if any(amounts[2 * axes :]):
        raise UnsupportedOperation("padding of channels")
    return (*amounts[: 2 * axes], 0, 0, 0, 0, 0, 0)[:6]


def _padded(
    builder: Builder,
    shape: Shape,
    x: Ref,
    kind: type[Op],
    options: dict[str, Any],
    amounts: Sequence[int],
    axes: int = 2,
) -> Ref:
    """Pad an image."""
    require_image(x)
    return builder.add(kind, (x,), shape, amounts=_sides(amounts, axes)[:4], **options)


def _padded_rows(
    builder: Builder, x: Ref, kind: type[Op], options: dict[str, Any], amounts: Sequence[int]
) -> Ref:
    """The last two dimensions of a contiguous value whose images are merged with others."""
    if len(x.view.shape) < 2 or (any(amounts[2:]) and len(x.view.shape) < 3):
        raise UnsupportedOperation("padding of what is merged with the images")
    *outer, rows, columns = x.view.shape
    left, right, top, bottom = around = _sides(amounts, 2)[:4]
    padded = (1, rows + top + bottom, columns + left + right)
    shape = (*outer, *padded[1:])
    inner = framed(kind, ((1, rows, columns),), padded, amounts=around, **options)
    frames = count(tuple(outer))
    made = builder.add(Framewise, (x,), stored_shape(shape), inner=inner, frames=frames)
    return replace(x, number=made.number, shape=made.shape, view=View.contiguous(shape))


def _padded_volume(
    builder: Builder,
    shape: Shape,
    x: Ref,
    kind: type[Op],
    options: dict[str, Any],
    amounts: Sequence[int],
) -> Ref:
    """Pad each plane, then add planes."""
    *around, front, back = _sides(amounts, 3)
    if any(around):
        x = on_planes(builder, x, kind, (shape[0], *shape[2:]), amounts=tuple(around), **options)
    if front or back:
        ends = (0, 0, front, back)
        x = along_depth(builder, x, kind, shape[0], shape[1], amounts=ends, **options)
    return x


@lowers("reflection_pad2d.default", whole=True)
def reflection_pad2d(builder: Builder, sizes: Sequence[int], x: Ref, amounts: Sequence[int]) -> Ref:
    """pad(x, mode="reflect")."""
    return pad(builder, sizes, x, amounts, "reflect")


@lowers("replication_pad2d.default", whole=True)
def replication_pad2d(
    builder: Builder, sizes: Sequence[int], x: Ref, amounts: Sequence[int]
) -> Ref:
    """pad(x, mode="replicate")."""
    return pad(builder, sizes, x, amounts, "replicate")
