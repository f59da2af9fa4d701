"""A copy of some elements of a value, in another order: what no view can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sign_ext.compiler.ir.op import Op, count
from sign_ext.compiler.ir.view import View, stored_strides


@dataclass(frozen=True, eq=False, kw_only=True)
class Rearrange(Op):
    """The elements of a view of the input, stored one after the other in the view's order.

    Attributes:
        view: of the input, its dimensions in the order in which the result is stored.
    """

    view: View

    kind: ClassVar[str] = "rearrange"

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
