"""Where everything lies in shared memory: what is alive when, and how weights come in.

A step is a row of phases, one a layer and direction. An array is alive in the phases that write and
read it; arrays that are never alive together may share memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from random import Random

from sign_ext.engine.onchip.layers import OnChipLayer, padded, padded_image
from sign_ext.errors import BackendError

ALIGNMENT = 128  # of an array: a line of all banks
RESERVED = 1024  # bytes of a multiprocessor's shared memory that each block costs beside its own
SHUFFLES = 64  # orders that are tried
MOST_SUBSETS = 8  # layers of which every choice is tried
LOAD, STORE = -1, 1 << 30  # before the first phase and behind the last


class Loads(IntEnum):
    """How the weights of a phase come: csrc/onchip/onchip.h, kWeights…"""

    THERE = 0
    PREFETCHED = 1
    NOW = 2


@dataclass(frozen=True)
class SharedMemory:
    """What a device has.

    Attributes:
        block: bytes that one block can have.
        processor: bytes of a multiprocessor.
    """

    block: int
    processor: int


@dataclass(frozen=True)
class Mode:
    """What a launch does: both for whole steps."""

    forward: bool
    backward: bool


WHOLE, FORWARD, BACKWARD = Mode(True, True), Mode(True, False), Mode(False, True)


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


@dataclass(frozen=True)
class OnChipPlan:
    """A launch's plan.

    Attributes:
        mode: what it does.
        at: byte of each array.
        bytes: of all.
        threads: of a block.
        blocks: that share a multiprocessor.
        keeps: the layers whose weights are copied once and stay.
        loads: how each phase's weights come, by (layer, whether backward).
        residue_bytes: of one image, in global memory.
        arrays: what was placed.
    """

    mode: Mode
    at: dict[tuple[str, int], int]
    bytes: int
    threads: int
    blocks: int
    keeps: frozenset[int]
    loads: dict[tuple[int, bool], Loads]
    residue_bytes: int
    arrays: tuple[Array, ...] = field(repr=False)


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


def _arrays(layers: tuple[OnChipLayer, ...], mode: Mode, momentum: bool) -> Iterator[Array]:
    """Everything but the weights."""
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
    yield Array(("residues", -1), _rounded(sum(map(residue_bytes, layers)), 16), always)
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


def cotangent_of(layers: tuple[OnChipLayer, ...], i: int) -> int:
    """The layer whose cotangent array is also layer i's: its own, or that of what adds its output.

    An output that is only added has the sum's cotangent.

    Args:
        layers: the network.
        i: a layer.
    """
    adder = adder_of(layers, i)
    if adder is None or any(other.reads == i for other in layers):
        return i
    return cotangent_of(layers, adder)


def adder_of(layers: tuple[OnChipLayer, ...], i: int) -> int | None:
    """The layer that adds layer i's output, or None.

    Args:
        layers: the network.
        i: a layer.
    """
    return next((n for n, other in enumerate(layers) if other.adds == i), None)


def readers_of(layers: tuple[OnChipLayer, ...], i: int) -> list[int]:
    """The layers whose convolution reads layer i's output, in order.

    Args:
        layers: the network.
        i: a layer.
    """
    return [n for n, other in enumerate(layers) if other.reads == i]


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


def _weights(
    layers: tuple[OnChipLayer, ...], mode: Mode, keeps: frozenset[int], waits: frozenset[int]
) -> tuple[list[Array], dict[tuple[int, bool], Loads]]:
    """The weights of `keeps` stay; others come beside the phase before, of `waits` in the phase."""
    phases = phases_of(len(layers), mode)
    always = frozenset(range(LOAD, len(phases))) | {STORE}
    arrays = [Array(("forward weights", i), layers[i].weight_bytes, always) for i in sorted(keeps)]
    loads: dict[tuple[int, bool], Loads] = {}
    for t, (i, backward) in enumerate(phases):
        if i in keeps:
            loads[i, backward] = Loads.THERE
            continue
        if t > 0 and phases[t - 1][0] == i:  # the layer where the step turns round
            forward = arrays.pop()
            arrays.append(replace(forward, alive=forward.alive | {t}))
            loads[i, backward] = Loads.THERE
            continue
        if i in waits:
            alive, loads[i, backward] = frozenset({t}), Loads.NOW
        else:
            # Those of a whole step's first phase also come beside the last phase of the one before.
            again = {len(phases) - 1} if mode == WHOLE else set()
            before = {t - 1} if t > 0 else {LOAD} | again
            alive, loads[i, backward] = frozenset({t} | before), Loads.PREFETCHED
        name = ("backward weights" if backward else "forward weights", i)
        arrays.append(Array(name, layers[i].weight_bytes, alive))
    return arrays, loads


def _choices(layers: tuple[OnChipLayer, ...]) -> Iterator[tuple[frozenset[int], frozenset[int]]]:
    """Which weights stay and which wait: the fewest bytes that come anew first, none that waits."""
    size = [one.weight_bytes for one in layers]
    order = sorted(range(len(layers)), key=lambda i: size[i])
    if len(layers) <= MOST_SUBSETS:
        subsets = [frozenset(i for i in order if n >> i & 1) for n in range(1 << len(layers))]
    else:
        subsets = [frozenset(order[:count]) for count in range(len(layers) + 1)]
    yield from (
        (keeps, frozenset()) for keeps in sorted(subsets, key=lambda k: -sum(size[i] for i in k))
    )
    for waiting in range(1, len(layers) + 1):
        yield frozenset(), frozenset(order[-waiting:])


def _rounded(size: int, unit: int = ALIGNMENT) -> int:
    return -(-size // unit) * unit


def crowded(arrays: Sequence[Array]) -> int:
    """Bytes that are alive at once at the worst: no placement needs less.

    Args:
        arrays: what is to be placed.
    """
    phases = frozenset[int]().union(*(array.alive for array in arrays))
    return max(sum(_rounded(a.bytes) for a in arrays if t in a.alive) for t in phases)


def _place_in_order(arrays: Iterable[Array]) -> tuple[dict[tuple[str, int], int], int]:
    """Each at the lowest place beside those before it that are alive with it."""
    placed: list[tuple[int, Array]] = []
    for array in arrays:
        taken = sorted((at, at + _rounded(a.bytes)) for at, a in placed if a.alive & array.alive)
        at = 0
        for begin, end in taken:
            if at + _rounded(array.bytes) <= begin:
                break
            at = max(at, end)
        placed.append((at, array))
    end = max((at + _rounded(a.bytes) for at, a in placed), default=0)
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


def _threads(layers: tuple[OnChipLayer, ...]) -> int:
    """A warp for each of the largest layer's tiles, up to 8: more would have smaller tiles."""
    tiles = max(
        -(-one.conv_shape[1] * one.conv_shape[2] // 64) * -(-padded(one.conv_shape[0]) // 32)
        for one in layers
    )
    return 256 if tiles > 4 else 128


def plan_shared_memory(
    layers: tuple[OnChipLayer, ...],
    mode: Mode,
    has: SharedMemory,
    *,
    momentum: bool = False,
    threads: int | None = None,
) -> OnChipPlan:
    """Find a plan that fits: as many weights as can stay, others come when they are needed.

    Args:
        layers: the network.
        mode: what the launch does.
        has: the device's memory.
        momentum: whether there is a velocity.
        threads: of a block, 128, 256 or 512; None for the rule.

    Raises:
        BackendError: none fits; the message says what the largest need is.
    """
    others = list(_arrays(layers, mode, momentum))
    smallest = 0
    for keeps, waits in _choices(layers):
        weights, loads = _weights(layers, mode, keeps, waits)
        arrays = others + weights
        least = crowded(arrays)
        smallest = min(smallest or least, least)
        if least > has.block:
            continue
        at, size = place(arrays)
        if size <= has.block:
            break
    else:
        raise BackendError(
            f"a step of {len(layers)} layers needs {smallest:,} bytes of shared memory at once; a "
            f"block of this device has {has.block:,}"
        )
    threads = threads or _threads(layers)
    blocks = max(1, min(has.processor // (size + RESERVED), 512 // threads))
    for i in range(len(layers)):  # one name for each phase's weights, wherever they are
        known = at.get(("forward weights", i), at.get(("backward weights", i)))
        assert known is not None
        at.setdefault(("forward weights", i), known)
        at.setdefault(("backward weights", i), known)
    residues = next(a.bytes for a in others if a.name[0] == "residues")
    return OnChipPlan(mode, at, size, threads, blocks, keeps, loads, residues, tuple(arrays))
