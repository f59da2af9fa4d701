"""Where arrays lie in shared memory: those that are never alive together may share it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from sign_ext.engine.onchip.partition import (
    OnChipLayer,
    cotangent_of,
    padded,
    padded_image,
    readers_of,
)
from sign_ext.ops.layout import rounded_up

ALIGNMENT = 128  # of an array: a line of all banks
SHUFFLES = 64  # orders that are tried


@dataclass(frozen=True)
class Array:
    """A part of shared memory.

    Attributes:
        name: ("p", -1), ("value", 2) and so on: what it is, and of which layer.
        bytes: its size.
        alive: the phases.
    """

    name: tuple[str, int]
    bytes: int
    alive: frozenset[int]

    @property
    def taken(self) -> int:
        """Bytes up to where the next one may begin."""
        return rounded_up(self.bytes, ALIGNMENT)


def crowded(arrays: Sequence[Array]) -> int:
    """Bytes that are alive at once at the worst: no placement needs less.

    Args:
        arrays: what is to be placed.
    """
    phases = frozenset[int]().union(*(array.alive for array in arrays))
    return max(sum(a.taken for a in arrays if t in a.alive) for t in phases)


def _place_in_order(arrays: Iterable[Array]) -> tuple[dict[tuple[str, int], int], int]:
    """Each at the lowest place beside those before it that are alive with it."""
    placed: list[tuple[int, Array]] = []
    for array in arrays:
        taken = sorted((at, at + a.taken) for at, a in placed if a.alive & array.alive)
        at = 0
        for begin, end in taken:
            if at + array.taken <= begin:
                break
            at = max(at, end)
        placed.append((at, array))
    end = max((at + a.taken for at, a in placed), default=0)
    return {array.name: at for at, array in placed}, end


def place(arrays: Sequence[Array]) -> tuple[dict[tuple[str, int], int], int]:
    """Give each array a place beside those that are alive with it: the best of some orders.

    Args:
        arrays: what to place.

    Returns:
        The byte of each by name, and the bytes of all.
    """
    least = crowded(arrays)
    random = Random(0)  # the same plan every time
    orders = [
        sorted(arrays, key=lambda a: (-len(a.alive), -a.bytes, a.name)),
        sorted(arrays, key=lambda a: (-a.bytes, a.name)),
    ]
    orders += [random.sample(list(arrays), len(arrays)) for _ in range(SHUFFLES)]
    best = _place_in_order(orders[0])
    for order in orders[1:]:
        if best[1] == least:
            break
        best = min(best, _place_in_order(order), key=lambda found: found[1])
    return best


# What a launch keeps in shared memory beside the weights, and in which phases it is alive.
#
# A step is a row of phases, one a layer and direction. An array is alive in the phases that
# write and read it.


LOAD, STORE = -1, 1 << 30  # before the first phase and behind the last


@dataclass(frozen=True)
class Mode:
    """What a launch does: both for whole steps."""

    forward: bool
    backward: bool


WHOLE, FORWARD, BACKWARD = Mode(True, True), Mode(True, False), Mode(False, True)


def phases_of(layers: int, mode: Mode) -> list[tuple[int, bool]]:
    """(layer, whether backward) of each phase, in order.

    Args:
        layers: how many there are.
        mode: what the launch does.
    """
    forward = [(i, False) for i in range(layers)] if mode.forward else []
    backward = [(i, True) for i in reversed(range(layers))] if mode.backward else []
    return forward + backward


def residue_bytes(layer: OnChipLayer) -> int:
    """Bytes of the bits that a layer keeps of one image.

    Args:
        layer: a layer.
    """
    channels, height, width = layer.shape
    return height * width * (padded(channels) // 8) * layer.kept


def arrays_of(layers: tuple[OnChipLayer, ...], mode: Mode, momentum: bool) -> Iterator[Array]:
    """Everything but the weights.

    Args:
        layers: the network.
        mode: what the launch does.
        momentum: whether there is a velocity.
    """
    phases = phases_of(len(layers), mode)
    order = {phase: t for t, phase in enumerate(phases)}
    last = len(phases) - 1
    always = frozenset(range(LOAD, last + 1)) | {STORE}
    channels, height, width = layers[0].in_shape
    image = height * width * channels * 4
    yield Array(("zeros", -1), 16, always)
    # A forward launch reads p once, to make value_0.
    yield Array(("p", -1), image, always if mode.backward else frozenset({LOAD}))
    if momentum and mode.backward:
        yield Array(("velocity", -1), image, always)
    yield Array(("residues", -1), rounded_up(sum(map(residue_bytes, layers)), 16), always)
    if mode.forward:
        # The last phase of a whole step writes value_0 of the next.
        alive = frozenset({LOAD, 0, last} if mode.backward else {LOAD, 0})
        yield Array(("x", -1), height * width * padded_image(channels) * 2, alive)
    for i, layer in enumerate(layers):
        readers = [n for n, other in enumerate(layers) if i in (other.reads, other.adds)]
        size = layer.shape[1] * layer.shape[2] * padded(layer.shape[0]) * 2
        if mode.forward and readers:
            yield Array(("value", i), size, frozenset(range(i, max(readers) + 1)))
        elif mode.forward and not mode.backward:
            yield Array(("value", i), size, frozenset({i, STORE}))
        if mode.backward:
            yield from _cotangents(layers, i, order)


def _cotangents(
    layers: tuple[OnChipLayer, ...], i: int, order: dict[tuple[int, bool], int]
) -> Iterator[Array]:
    """The cotangent of what layer i's convolution gives, and what two readers have to add up."""
    layer = layers[i]
    if cotangent_of(layers, i) == i:
        # Written by the first reader, the last of them in the backward pass, or by the seed; read
        # by the layer itself, by those whose cotangent it is too, and where it is added.
        readers = readers_of(layers, i)
        begin = order[readers[0], True] if readers else order[i, True]
        uses = [n for n in range(len(layers)) if cotangent_of(layers, n) == i]
        ends = [order[n, True] for n in uses]
        for n in uses:
            added = layers[n].adds
            if added is not None and (others := readers_of(layers, added)):
                ends.append(order[others[0], True])
        _, height, width = layer.conv_shape
        size = height * width * padded(layer.conv_shape[0]) * 2
        yield Array(("g", i), size, frozenset(range(begin, max(ends) + 1)))
    readers = readers_of(layers, i)
    if len(readers) > 1:
        size = layer.shape[1] * layer.shape[2] * padded(layer.shape[0]) * 2
        alive = range(order[readers[1], True], order[readers[0], True] + 1)
        yield Array(("partial", i), size, frozenset(alive))
