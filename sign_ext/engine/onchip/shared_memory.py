"""Where a launch's arrays lie in shared memory: those that are never alive together may overlap.

A step is a sequence of phases, one for each layer and direction. An array is alive in the phases
that write or read it. `launch_arrays` lists the arrays but for the weights, `place_arrays` gives
each its address.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
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
LOAD, STORE = -1, 1 << 30  # the times before the first phase and after the last one


@dataclass(frozen=True)
class Mode:
    """Which passes a launch does; a launch of whole steps does both."""

    forward: bool
    backward: bool


WHOLE, FORWARD, BACKWARD = Mode(True, True), Mode(True, False), Mode(False, True)


@dataclass(frozen=True)
class Array:
    """A part of shared memory.

    Attributes:
        name: what it is, and of which layer: ("value", 2), or ("p", -1) for the image's.
        bytes: its size.
        alive: the phases in which it must keep its contents.
    """

    name: tuple[str, int]
    bytes: int
    alive: frozenset[int]

    @property
    def aligned_bytes(self) -> int:
        """Bytes up to where the next one may begin."""
        return rounded_up(self.bytes, ALIGNMENT)


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
    """Bytes of the bits that a layer keeps of one image, without padding.

    Args:
        layer: a layer.
    """
    channels, height, width = layer.shape
    return height * width * (padded(channels) // 8) * layer.kept


def residue_begins(layers: tuple[OnChipLayer, ...]) -> tuple[int, ...]:
    """The first byte of each layer's bits, a multiple of 4, and the end of the last one's.

    Args:
        layers: the network.
    """
    return (0, *accumulate(rounded_up(residue_bytes(layer), 4) for layer in layers))


def launch_arrays(layers: tuple[OnChipLayer, ...], mode: Mode, momentum: bool) -> Iterator[Array]:
    """Every array of a launch but the weights.

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
    yield Array(("residues", -1), rounded_up(residue_begins(layers)[-1], 16), always)
    if mode.forward:
        # The last phase of a whole step writes x for the next step.
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
    """The cotangent of layer i's convolution, and the partial sum where two layers read its output.

    Args:
        layers: the network.
        i: a layer.
        order: the number of each phase.
    """
    layer = layers[i]
    readers = readers_of(layers, i)
    if cotangent_of(layers, i) == i:
        # Written by the first reader, which comes last of them in the backward pass, or by the
        # seed. Read by the layer itself, by those that share the array, and where it is added.
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
    if len(readers) > 1:
        size = layer.shape[1] * layer.shape[2] * padded(layer.shape[0]) * 2
        alive = range(order[readers[1], True], order[readers[0], True] + 1)
        yield Array(("partial", i), size, frozenset(alive))


def least_bytes(arrays: Sequence[Array]) -> int:
    """The most bytes that are alive at once: no placement needs less.

    Args:
        arrays: what is to be placed.
    """
    phases = frozenset[int]().union(*(array.alive for array in arrays))
    return max(sum(a.aligned_bytes for a in arrays if t in a.alive) for t in phases)


def place_arrays(arrays: Sequence[Array]) -> tuple[dict[tuple[str, int], int], int]:
    """Give each array an address, so that those alive together do not overlap: the best of a few.

    Args:
        arrays: what to place.

    Returns:
        The first byte of each by name, and the bytes of all together.
    """
    least = least_bytes(arrays)
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


def _place_in_order(arrays: Iterable[Array]) -> tuple[dict[tuple[str, int], int], int]:
    """Each array at the lowest address that earlier ones alive with it leave free."""
    placed: list[tuple[int, Array]] = []
    for array in arrays:
        occupied = sorted((at, at + a.aligned_bytes) for at, a in placed if a.alive & array.alive)
        at = 0
        for begin, end in occupied:
            if at + array.aligned_bytes <= begin:
                break
            at = max(at, end)
        placed.append((at, array))
    end = max((at + a.aligned_bytes for at, a in placed), default=0)
    return {array.name: at for at, array in placed}, end
