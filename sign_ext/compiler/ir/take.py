"""Indexing of one dimension by constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from sign_ext.compiler.ir.viewed import Own, Viewed


class Places(NamedTuple):
    """The index of a `Take` as tensors on a device.

    Attributes:
        taken: of each element of the value, the element of the operand.
        back: where each element of the operand is in the value, if it is there once; else None.
        layers: pairs of places in the value and in the operand. Those in the operand are distinct
            within a layer, so that sums do not depend on the order in which they are taken.
    """

    taken: Tensor
    back: Tensor | None
    layers: tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Take(Viewed):
    """Along one dimension, element i of the value is element index[i] of the operand.

    Attributes:
        index: not negative.
        dim: counted from the last, which is -1.
        places: the same as tensors, where it has been prepared for a device.
    """

    index: tuple[int, ...]
    dim: int
    places: Places | None = None

    kind: ClassVar[str] = "take"

    @property
    def channels_taken(self) -> tuple[int, ...] | None:
        """The index, where it selects channels of a stored value and nothing else moves."""
        if len(self.in_shapes[0]) != 3 or len(self.out.shape) != 3 or self.dim != -3:
            return None
        whole = type(self.out).of_stored
        as_stored = self.views[0] == whole(self.in_shapes[0]) and self.out == whole(self.shape)
        return self.index if as_stored else None

    def on(self, device: torch.device) -> Take:
        """The same operation with its places on a device.

        Args:
            device: where it runs.
        """

        def tensor(places: Sequence[int]) -> Tensor:
            return torch.tensor(places, dtype=torch.int64, device=device)

        size = self.views[0].shape[self.dim]
        if sorted(self.index) == list(range(size)):
            back = [0] * size
            for place, source in enumerate(self.index):
                back[source] = place
            return replace(self, places=Places(tensor(self.index), tensor(back), ()))
        seen = [0] * size
        layers: list[tuple[list[int], list[int]]] = []
        for place, source in enumerate(self.index):
            if seen[source] == len(layers):
                layers.append(([], []))
            places, sources = layers[seen[source]]
            places.append(place)
            sources.append(source)
            seen[source] += 1
        pairs = tuple((tensor(places), tensor(sources)) for places, sources in layers)
        return replace(self, places=Places(tensor(self.index), None, pairs))

    def _on(self, x: Tensor) -> Places:
        found = self.places or self.on(x.device).places
        assert found is not None
        return found

    def value(self, *operands: Tensor) -> tuple[Tensor, Own]:
        """Call PyTorch's operator."""
        return operands[0].index_select(self.dim, self._on(operands[0]).taken), ()

    def cotangent(
        self, operand: int, g: Tensor, xs: Sequence[Tensor | None], y: Tensor | None, own: Own
    ) -> Tensor:
        """Scatter back, and sum where an element was taken several times."""
        places = self._on(g)
        if places.back is not None:
            return g.index_select(self.dim, places.back)
        found = g.new_zeros((len(g), *self.views[0].shape))
        for there, sources in places.layers:
            found.index_add_(self.dim, sources, g.index_select(self.dim, there))
        return found

    def detail(self) -> str:
        """How many elements are taken, of how many."""
        return f"{len(self.index)} of {self.views[0].shape[self.dim]}"
