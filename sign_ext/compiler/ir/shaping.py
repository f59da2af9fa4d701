"""Operations that only move elements: concatenation, slices, padding, reshapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.compiler.ir.op import Op, count


@dataclass(frozen=True, eq=False, kw_only=True)
class Concat(Op):
    """The inputs, concatenated.

    Attributes:
        dim: the dimension of (N, C, H, W) along which.
    """

    dim: int = 1

    kind: ClassVar[str] = "concat"

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """Concatenate."""
        return torch.cat(inputs, self.dim), None

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """Split the cotangent."""
        return cotangent.split([shape[self.dim - 1] for shape in self.in_shapes], self.dim)


@dataclass(frozen=True, eq=False, kw_only=True)
class Slice(Op):
    """Every `step`-th position from `start` up to `stop` along one dimension.

    Attributes:
        dim: of (N, C, H, W), not the first.
        start: the first position.
        stop: one past the last.
        step: between positions.
    """

    dim: int
    start: int
    stop: int
    step: int = 1

    kind: ClassVar[str] = "slice"

    @property
    def positions_selected(self) -> tuple[int, int] | None:
        """The range of a slice along the last dimension."""
        if len(self.in_shapes[0]) != 3 or self.in_shapes[0][1] != 1:
            return None
        whole = self.dim == 3 and self.step == 1
        some = self.stop - self.start < self.in_shapes[0][2]
        return (self.start, self.stop) if whole and some else None

    @property
    def channels_sliced(self) -> tuple[int, int] | None:
        """The range of a slice along the channels."""
        return (self.start, self.stop) if (self.dim, self.step) == (1, 1) else None

    def _region(self) -> tuple[slice, ...]:
        return (slice(None),) * self.dim + (slice(self.start, self.stop, self.step),)

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The slice."""
        return inputs[0][self._region()], None

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """Zeros around the slice."""
        whole = cotangent.new_zeros((len(cotangent), *self.in_shapes[0]))
        whole[self._region()] = cotangent
        return (whole,)

    def detail(self) -> str:
        """Dimension and positions."""
        step = f":{self.step}" if self.step > 1 else ""
        return f"dimension {self.dim}, {self.start}:{self.stop}{step}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Pad(Op):
    """A constant around the image; negative amounts crop it.

    Attributes:
        amounts: (left, right, top, bottom), as in torch.nn.functional.pad.
        value: the constant.
    """

    amounts: tuple[int, int, int, int]
    value: float = 0.0

    kind: ClassVar[str] = "pad"

    @property
    def zeros_around(self) -> tuple[int, int, int, int] | None:
        """The amounts, where nothing is cropped and the constant is 0."""
        return self.amounts if not self.value and min(self.amounts) >= 0 else None

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The padded image."""
        return F.pad(inputs[0], self.amounts, value=self.value), None

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """Crop the padding; zeros where something was cropped."""
        return (F.pad(cotangent, tuple(-amount for amount in self.amounts)),)

    def detail(self) -> str:
        """The amounts."""
        left, right, top, bottom = self.amounts
        return f"left {left} right {right} top {top} bottom {bottom}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Reshape(Op):
    """The same elements of each image, in the order (C, H, W), in another shape."""

    kind: ClassVar[str] = "reshape"

    @property
    def keeps_order(self) -> bool:
        """True: only the shape changes."""
        return True

    @property
    def works_in_place(self) -> bool:
        """Where it moves nothing with channels innermost: (C, 1, 1) and (C,), other positions."""
        before, after = self.in_shapes[0], self.shape
        if len(before) == len(after) == 3 and before[0] == after[0]:
            return True
        return all(count(shape) == (shape or (1,))[0] for shape in (before, after))

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The reshaped value."""
        return inputs[0].reshape(len(inputs[0]), *self.shape), None

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """Back to the input's shape."""
        return (cotangent.reshape(len(cotangent), *self.in_shapes[0]),)
