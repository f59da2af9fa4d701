"""A launch's plan: what fits in shared memory, where it lies, and how weights come in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum

from sign_ext.engine.onchip.partition import OnChipLayer, padded
from sign_ext.engine.onchip.shared_memory import (
    LOAD,
    STORE,
    WHOLE,
    Array,
    Mode,
    arrays_of,
    crowded,
    phases_of,
    place,
)
from sign_ext.errors import BackendError

RESERVED = 1024  # bytes of a multiprocessor's shared memory that each block costs beside its own
MOST_SUBSETS = 8  # layers of which every choice is tried


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
    others = list(arrays_of(layers, mode, momentum))
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
