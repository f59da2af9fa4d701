"""A copy of some elements of a value, in another order: what no view can do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from sign_ext.compiler.ir.op import Op, Shape, count
from sign_ext.compiler.ir.shaping import Reshape
from sign_ext.compiler.ir.view import View, contiguous_strides, stored_strides


@dataclass(frozen=True, eq=False, kw_only=True)
class Rearrange(Op):
    """The elements of a view of the input, stored one after the other in the view's order.

    Attributes:
        view: of the input, its dimensions in the order in which the result is stored.
    """

    view: View

    kind: ClassVar[str] = "rearrange"

    @property
    def places_moved(self) -> tuple[int, ...] | None:
        """Those of a view that keeps the channels innermost and reads everything once."""
        if len(self.shape) != 3 or len(self.in_shapes[0]) != 3:
            return None
        view, channels = self.view, self.shape[0]
        whole = view.shape[-1:] == (channels,) and view.strides[-1] == 1
        if not whole or channels != self.in_shapes[0][0] or not view.covers(count(self.shape)):
            return None
        positions = torch.arange(count(self.shape[1:]))
        strides = [stride // channels for stride in view.strides[:-1]]
        return tuple(positions.as_strided(view.shape[:-1], strides).flatten().tolist())

    @property
    def copied_view(self) -> View:
        """It is given."""
        return self.view

    def copying(self, view: View, **changes: Any) -> Rearrange:
        """With the other view."""
        return replace(self, view=view, **changes)

    def after_selection(self, shape: Shape) -> Op:
        """The shape of its value; the positions are in order."""
        if self.shape == shape[:1]:
            return Reshape(
                inputs=self.inputs, in_shapes=(shape,), output=self.output, shape=self.shape
            )
        return replace(self, in_shapes=(shape,), view=View(self.view.shape, self.view.strides))

    @property
    def positions_selected(self) -> tuple[int, int] | None:
        """Those of a view of adjacent positions."""
        if len(self.in_shapes[0]) != 3 or self.in_shapes[0][1] != 1:
            return None
        channels, _, length = self.in_shapes[0]
        start, rest = divmod(self.view.offset, channels)
        positions = count(self.view.shape) // channels
        strides = contiguous_strides(self.view.shape)
        in_order = View(self.view.shape, strides, self.view.offset)
        if rest or positions * channels != count(self.view.shape) or self.view != in_order:
            return None
        return (start, start + positions) if positions < length else None

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """Copy the view."""
        rows = self.view.on(inputs[0]).contiguous()
        return rows.as_strided(
            (len(rows), *self.shape),
            (count(self.shape), *stored_strides(self.shape)),
            rows.storage_offset(),
        ), None

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """Each element goes back to where it came from."""
        g = View.contiguous(self.view.shape).on(cotangent)
        view = self.view
        spread = [
            d
            for d, (n, stride) in enumerate(zip(view.shape, view.strides, strict=True))
            if n != 1 and not stride
        ]
        if spread:
            g = g.sum([d + 1 for d in spread], keepdim=True)
            shape = tuple(1 if d in spread else n for d, n in enumerate(view.shape))
            view = View(shape, view.strides, view.offset)
        size = (len(g), count(self.in_shapes[0]))
        whole = g.new_empty(size) if view.covers(size[1]) else g.new_zeros(size)
        view.on(whole).copy_(g)
        return (
            whole.as_strided(
                (len(whole), *self.in_shapes[0]), (size[1], *stored_strides(self.in_shapes[0]))
            ),
        )

    def detail(self) -> str:
        """The view's sizes."""
        return "×".join(map(str, self.view.shape))
