"""A source layer that was found before: one pass over one image says whether it still is Φ's.

To find Φ and to check it takes two forward passes and two backward passes, with a hook on every
module. Where the network's structure is that of an earlier call, the answer is known but for what
no watch can see. So the network runs once more, as a whole: the layer has to run once, and the way
in autograd's graph from the network's output to Φ has to be what it was. One backward pass from Φ
shows that there is a gradient, and what it is at a random image, with which a compiled program is
compared. At an image that was looked at before, this pass is left out where Φ's values are the same
bit by bit and the graph from Φ back to the image has the same nodes, all of them PyTorch's own:
then the gradient is the same.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.bounded_cache import BoundedCache
from sign_ext.engine.eager import own_layout
from sign_ext.engine.trajectory import compiled_layout
from sign_ext.source_layer import (
    SourceLayer,
    SumVariation,
    in_this_thread,
    tensors_in,
    trail_to,
    way_back,
)

LAYERS_KEPT = 8  # kinds of images and options at a time


@dataclass(frozen=True)
class KnownLayer:
    """What an earlier call found.

    Attributes:
        structure: the network's, from its watch.
        source: where Φ is read.
        trail: from the network's output back to Φ, from `trail_to`.
        variation: how much the sum over Φ varies.
        weights: the versions of the weights with which the sum is (nearly) constant: with others it
            may vary. None where it varies.
    """

    structure: Hashable
    source: SourceLayer
    trail: tuple[str, ...]
    variation: SumVariation
    weights: Hashable | None


class KnownLayers:
    """The last few of a network, by the kind of images; several threads may use it."""

    def __init__(self) -> None:
        """Know nothing."""
        self._free = threading.Lock()
        self.clear()

    def get(self, kind: Hashable) -> KnownLayer | None:
        """What was found for such images, or None."""
        with self._free:
            return self._kept.get(kind)

    def put(self, kind: Hashable, known: KnownLayer) -> None:
        """Keep what was found."""
        with self._free:
            self._kept.drop_key(kind)
            self._kept.get_or_make(kind, lambda: known)

    def layouts(self, kind: Hashable, images: Tensor) -> tuple[torch.memory_format, ...]:
        """In which layouts to look again, the first that works: it takes less in channels_last.

        A layout changes no value but by rounding. Where δ seems to be another, the images' own
        layout decides (`ProgramCache.get`).

        Args:
            kind: of images.
            images: (N, ...).
        """
        own, fast = own_layout(images), compiled_layout(images)
        with self._free:
            fails = self._fails.get(kind) == fast
        return (own,) if fails or images.dim() != 4 or own == fast else (fast, own)

    def rule_out(self, kind: Hashable, layout: torch.memory_format) -> None:
        """Look again without a layout, in which the network does not run."""
        with self._free:
            self._fails.get_or_make(kind, lambda: layout)

    def clear(self) -> None:
        """Know nothing."""
        with self._free:
            self._kept: BoundedCache[Hashable, KnownLayer] = BoundedCache(LAYERS_KEPT)
            self._fails: BoundedCache[Hashable, torch.memory_format] = BoundedCache(LAYERS_KEPT)


@dataclass(frozen=True, eq=False)
class Look:
    """What a network made of an image.

    Attributes:
        value: Φ's there, (1, ...).
        way: the way in autograd's graph from Φ back to the image, from `way_back`.
        delta: autograd's δ, shaped as the image.
    """

    value: Tensor
    way: tuple[Hashable, ...] | None
    delta: Tensor

    def holds(self, value: Tensor, way: tuple[Hashable, ...] | None) -> bool:
        """Whether δ is still this one, where Φ and its way are these.

        Args:
            value: Φ's at the same image, compared bit by bit.
            way: as the attribute.
        """
        return way is not None and way == self.way and torch.equal(value, self.value)


def look_again(
    model: nn.Module, known: KnownLayer, images: Tensor, earlier: Look | None = None
) -> Look | None:
    """What the network makes of a few images if Φ is where it was; None: Φ has to be found anew.

    Args:
        model: the network, frozen and in evaluation mode.
        known: what an earlier call found.
        images: (N, ...), of the network's dtype.
        earlier: a look at the same images in the same layout; where it still holds, it is the
            answer, and no backward pass is run.

    Returns:
        The look; None also where the network raises, or Φ or δ is not finite.
    """
    try:
        look = _look(model, known, images, earlier)
    except Exception:  # whatever the network raises; the search for Φ says what is wrong
        return None
    return look if look is not None and bool(torch.isfinite(look.delta).all()) else None


def _look(model: nn.Module, known: KnownLayer, images: Tensor, earlier: Look | None) -> Look | None:
    seen: list[tuple[Tensor, Any]] = []

    def keep(value: Any) -> None:
        # Copied, since a later layer may write in place; its node, by which the trail ends.
        (tensor,) = tensors_in(value)
        seen.append((tensor.clone(), tensor.grad_fn))

    @in_this_thread
    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(args[0] if args else next(iter(kwargs.values()), None))

    @in_this_thread
    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        keep(output)

    module = model.get_submodule(known.source.name)
    at_input = known.source.side == "input"
    if at_input:
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = module.register_forward_hook(after)
    try:
        with torch.enable_grad():
            x = images.detach().clone().requires_grad_()
            output = model(x)
    finally:
        handle.remove()
    if len(seen) != 1:
        return None
    ((value, node),) = seen
    if at_input and trail_to(node, output) != known.trail:
        return None
    if not bool(torch.isfinite(value).all()):
        return None
    way = way_back(node)
    if earlier is not None and earlier.holds(value, way):
        return earlier
    return Look(value.detach(), way, backward(value, x))


def backward(value: Tensor, image: Tensor) -> Tensor:
    """δ: the gradient of the sum of Φ with respect to the image.

    Args:
        value: Φ's.
        image: that it was computed from.
    """
    (delta,) = torch.autograd.grad(value, image, torch.ones_like(value))
    return delta
