"""Operations that only reorder elements: pixels and channels shuffled, an axis flipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.compiler.ir.op import Op


@dataclass(frozen=True, eq=False, kw_only=True)
class PixelShuffle(Op):
    """Channels to space, (C·f², H, W) → (C, f·H, f·W), or back.

    Attributes:
        factor: f.
        inverse: whether space goes to channels.
    """

    factor: int
    inverse: bool = False

    kind: ClassVar[str] = "pixel_shuffle"

    def _moved(self, x: Tensor, inverse: bool) -> Tensor:
        return F.pixel_unshuffle(x, self.factor) if inverse else F.pixel_shuffle(x, self.factor)

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The elements in their new places."""
        return self._moved(inputs[0], self.inverse), None

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """Back to where they were."""
        return (self._moved(cotangent, not self.inverse),)

    def detail(self) -> str:
        """Direction and factor."""
        return f"{'to channels' if self.inverse else 'to space'} by {self.factor}"


@dataclass(frozen=True, eq=False, kw_only=True)
class ChannelShuffle(Op):
    """The channels of some groups taken in turns: the first of each, then the second of each.

    Attributes:
        groups: of which there are.
    """

    groups: int

    kind: ClassVar[str] = "channel_shuffle"

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The channels in their new places."""
        return self._in_turns(inputs[0], self.groups), None

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """As many groups as a group had channels, taken in turns, are the old order."""
        return (self._in_turns(cotangent, self.shape[0] // self.groups),)

    @staticmethod
    def _in_turns(x: Tensor, groups: int) -> Tensor:
        # With the channels innermost this is one copy, of matrices (groups, channels of a group).
        innermost = x.movedim(1, -1)
        turned = innermost.unflatten(-1, (groups, -1)).transpose(-1, -2).flatten(-2)
        return turned.movedim(-1, 1)

    def detail(self) -> str:
        """The number of groups."""
        return f"{self.groups} groups"


@dataclass(frozen=True, eq=False, kw_only=True)
class Flip(Op):
    """The order of elements reversed along some dimensions.

    Attributes:
        dims: of (N, ...), not the first.
    """

    dims: tuple[int, ...]

    kind: ClassVar[str] = "flip"

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """Reversed."""
        return torch.flip(inputs[0], self.dims), None

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """Reversed back."""
        return (torch.flip(cotangent, self.dims),)

    def detail(self) -> str:
        """The dimensions."""
        return f"dimensions {', '.join(map(str, self.dims))}"
