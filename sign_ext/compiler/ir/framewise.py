"""A 2-d operation on volumes and signals, whose positions are taken as rows and columns otherwise.

A volume (C, D, H, W) is stored as the image (C, D·H, W) with the channels innermost. The same
memory is D images (C, H, W), and it is the image (C, D, H·W): a kernel that reaches along two of
the axes, or along the first alone, is a 2-d operation on one of these. Nothing moves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from torch import Tensor

from sign_ext.compiler.ir.op import Op, Residue, Shape, count


def regrouped(x: Tensor, shape: Shape) -> Tensor:
    """The same memory with other rows and columns, and perhaps another number of images.

    Args:
        x: (N, C, H, W), channels innermost.
        shape: (C, H', W').
    """
    channels, height, width = shape
    return x.permute(0, 2, 3, 1).reshape(-1, height, width, channels).permute(0, 3, 1, 2)


@dataclass(frozen=True, eq=False, kw_only=True)
class Framewise(Op):
    """An operation on each of some images that a value consists of.

    Attributes:
        inner: the operation on one of them; its activation is this one's.
        frames: how many there are.
    """

    inner: Op
    frames: int = 1

    kind: ClassVar[str] = "framewise"

    @property
    def runs_by(self) -> str:
        """As for the inner operation."""
        return self.inner.runs_by

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """Split, apply, join."""
        cut = [regrouped(x, shape) for x, shape in zip(inputs, self.inner.in_shapes, strict=True)]
        value, kept = self.inner.linear(*cut)
        return regrouped(value, self.shape), kept

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """Split, pull back, join."""
        found = self.inner.linear_vjp(regrouped(cotangent, self.inner.shape), kept)
        return tuple(
            regrouped(each, shape) for each, shape in zip(found, self.in_shapes, strict=True)
        )

    def kept(self, element_size: int) -> tuple[Residue, ...]:
        """What the inner operation keeps for each frame."""
        return self._of_all(self.inner.kept(element_size))

    def own_residues(self, element_size: int) -> tuple[Residue, ...]:
        """What the inner operation keeps for each frame."""
        return self._of_all(self.inner.own_residues(element_size))

    def _of_all(self, residues: Iterable[Residue]) -> tuple[Residue, ...]:
        return tuple(Residue(kind, size * self.frames) for kind, size in residues)

    def workspace(self, element_size: int) -> int:
        """What the inner operation allocates for each frame."""
        return self.inner.workspace(element_size) * self.frames

    def followed_by(
        self, scale: Tensor | None, shift: Tensor | None, **changes: Any
    ) -> Framewise | None:
        """As for the inner operation."""
        extra = len(changes["inputs"]) - len(self.inputs)
        inner = self.inner.followed_by(
            scale,
            shift,
            inputs=changes["inputs"],
            in_shapes=(*self.inner.in_shapes, *[self.inner.shape] * extra),
            output=changes["output"],
            activation=changes["activation"],
        )
        return None if inner is None else replace(self, inner=inner, **changes)

    def absorbs(self, *, shift: bool) -> bool:
        """As for the inner operation."""
        return self.inner.absorbs(shift=shift)

    def preceded_by(self, scale: Tensor | None, shift: Tensor | None, **changes: Any) -> Framewise:
        """As for the inner operation."""
        return replace(self, inner=self.inner.preceded_by(scale, shift), **changes)

    def without_weights(self) -> Self:
        """With the operation's weights' shapes in place of their values."""
        return replace(self, inner=self.inner.without_weights())

    @property
    def takes_residual(self) -> bool:
        """As for the inner operation."""
        return self.inner.takes_residual

    @property
    def has_residual(self) -> bool:
        """As for the inner operation."""
        return self.inner.has_residual

    @property
    def masks_on_load(self) -> bool:
        """As for the inner operation."""
        return self.inner.masks_on_load

    @property
    def takes_epilogue(self) -> bool:
        """As for the inner operation."""
        return self.inner.takes_epilogue

    def flops(self) -> int:
        """The inner operation's, for all frames."""
        return self.inner.flops() * self.frames

    def detail(self) -> str:
        """The inner operation, and the shape of a frame."""
        name = f"{self.inner.kind} {self.inner.detail()}"
        if self.frames > 1:
            return f"{name} on each of {self.frames}"
        return f"{name} on {'×'.join(map(str, self.inner.in_shapes[0]))}"


def framed(
    kind: type[Op],
    in_shapes: tuple[Shape, ...],
    shape: Shape,
    **options: Any,
) -> Op:
    """The inner operation of a `Framewise`.

    Args:
        kind: its class.
        in_shapes: of one of the images.
        shape: of its output.
        **options: the class's other fields.
    """
    inputs = tuple(range(len(in_shapes)))
    return kind(inputs=inputs, output=len(inputs), in_shapes=in_shapes, shape=shape, **options)


def frames_in(stored: Shape, shape: Shape) -> int:
    """How many images of a shape a stored value consists of.

    Args:
        stored: (C, H, W) of the value.
        shape: (C, H', W').
    """
    return count(stored) // count(shape)
