"""Channels rotated in pairs, by an angle for each position: rotary position embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sign_ext.compiler.ir.op import Op


@dataclass(frozen=True, eq=False, kw_only=True)
class Rotate(Op):
    """own · x + other · x[partners], element by element.

    Rotary embedding (Su et al., "RoFormer", 2021) has the cosine and ± the sine there. Channels
    that nothing turns have own = 1, other = 0 and are their own partners.

    Attributes:
        own: (C, H, W), what each element is multiplied by.
        other: (C, H, W), what its partner is multiplied by.
        partners: of each channel, a permutation.
    """

    own: Tensor
    other: Tensor
    partners: tuple[int, ...]

    kind: ClassVar[str] = "rotate"

    @property
    def back(self) -> tuple[int, ...]:
        """Of each channel, the one that it is the partner of."""
        found = [0] * len(self.partners)
        for channel, partner in enumerate(self.partners):
            found[partner] = channel
        return tuple(found)

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """Two products."""
        (x,) = inputs
        index = torch.tensor(self.partners, device=x.device)
        return x * self.own.to(x) + x.index_select(1, index) * self.other.to(x), None

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """What a partner contributed goes back to it."""
        index = torch.tensor(self.back, device=cotangent.device)
        turned = (cotangent * self.other.to(cotangent)).index_select(1, index)
        return (cotangent * self.own.to(cotangent) + turned,)

    def detail(self) -> str:
        """How many channels have another as their partner."""
        turned = sum(channel != partner for channel, partner in enumerate(self.partners))
        return f"{turned} channels"
