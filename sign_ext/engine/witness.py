"""The random images at which compiled programs are compared with autograd, one in each call.

The network runs there in every call, since it may have changed in a way that nothing can watch. A
compiled step cannot change: what it found at an image is kept, so that the comparison costs its
half the first time only. So is what the network made of it, with which the next run is compared
(`known_layer.py`). A change shows at a random image that was drawn before it as well as at one
drawn after. Where it does not, other images may show it: calls take turns with a few, and each is
replaced after a few calls.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sign_ext.engine.agreement import Pullback
from sign_ext.engine.known_layer import Look
from sign_ext.probe import ImageStatistics, random_images

TURNS = 3  # images that take turns
CALLS = 6  # that an image serves
KINDS_KEPT = 8  # shapes and dtypes at a time
# How far the statistics of a call's images may be from those that an image was drawn like: of the
# mean, relative to the standard deviation, and of the standard deviation.
CLOSE_MEAN, CLOSE_STD = 0.5, 1.5


@dataclass
class _Witness:
    image: Tensor  # (1, C, ...)
    like: ImageStatistics
    calls: int = 0
    found: weakref.WeakKeyDictionary[Pullback, Tensor] = field(
        default_factory=weakref.WeakKeyDictionary
    )
    looks: dict[Hashable, Look] = field(default_factory=dict)

    def serves(self, like: ImageStatistics) -> bool:
        """Whether it may serve one more call, whose images have these statistics."""
        return self.calls < CALLS and (like is self.like or _are_close(like, self.like))


def _are_close(one: ImageStatistics, other: ImageStatistics) -> bool:
    near = (one.mean - other.mean).abs() <= CLOSE_MEAN * other.std
    wide = (one.std <= CLOSE_STD * other.std) & (other.std <= CLOSE_STD * one.std)
    return bool((near & wide).all())


class Witnesses:
    """Those of one network; several threads may use them."""

    def __init__(self) -> None:
        """None yet."""
        self._free = threading.Lock()
        self._drawn = 0  # seeds so far: each image is another one
        self._kinds: OrderedDict[Hashable, list[_Witness]] = OrderedDict()

    def draw(self, like: ImageStatistics, images: Tensor, count: int = 1) -> Tensor:
        """Random images shaped as some; other ones each time.

        Args:
            like: their statistics.
            images: (N, ...).
            count: how many.
        """
        with self._free:
            self._drawn += 1
            seed = self._drawn
        return random_images(like, images.shape[1:], count, seed)

    def take(self, like: ImageStatistics, images: Tensor, dtype: torch.dtype) -> Tensor:
        """The random image of a call, (1, ...) of a dtype; not to be written.

        Args:
            like: the statistics of the call's images.
            images: these, (N, ...).
            dtype: of the network.
        """
        kind = (images.shape[1:], images.device, dtype)
        with self._free:
            waiting = self._kinds.setdefault(kind, [])
            self._kinds.move_to_end(kind)
            while len(self._kinds) > KINDS_KEPT:
                self._kinds.popitem(last=False)
            first = waiting.pop(0) if len(waiting) == TURNS else None
        if first is None or not first.serves(like):
            first = _Witness(self.draw(like, images).to(dtype), like)
        first.calls += 1
        with self._free:
            waiting.append(first)
            del waiting[:-TURNS]
        return first.image

    def delta_of(self, step: Pullback, image: Tensor) -> Tensor:
        """δ of a step at an image that was taken, computed once.

        Args:
            step: what has δ, and does not change.
            image: from `take`, or any other.
        """
        with self._free:
            known = self._of(image)
            found = None if known is None else known.found.get(step)
        if found is None:
            with torch.no_grad():
                found = step.pullback_of_ones(image)
            if known is not None:
                with self._free:
                    known.found[step] = found
        return found

    def _of(self, image: Tensor) -> _Witness | None:
        waiting = (each for kind in self._kinds.values() for each in kind)
        return next((each for each in waiting if each.image is image), None)

    def look_at(self, image: Tensor, place: Hashable) -> Look | None:
        """What the network made of an image in an earlier call, or None.

        Args:
            image: from `take`.
            place: what was looked at, and how.
        """
        with self._free:
            known = self._of(image)
            return None if known is None else known.looks.get(place)

    def keep_look(self, image: Tensor, place: Hashable, look: Look) -> None:
        """Keep what the network made of an image for as long as that serves.

        Args:
            image: from `take`.
            place: as for `look_at`.
            look: what it made of it.
        """
        with self._free:
            known = self._of(image)
            if known is not None:
                known.looks[place] = look

    def clear(self) -> None:
        """Forget all images."""
        with self._free:
            self._kinds.clear()
