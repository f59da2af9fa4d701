"""A launch's plan: what fits in shared memory, where it lies, and how the weights get there."""

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
    launch_arrays,
    least_bytes,
    phases_of,
    place_arrays,
)
from sign_ext.errors import BackendError

RESERVED = 1024  # bytes of a multiprocessor's shared memory that CUDA takes for each block
MOST_THREADS = 512  # that share a multiprocessor: the kernel has 128 registers of 65,536 for each
MOST_SUBSETS = 8  # layers: up to so many, every subset of weights that stay is tried


class WeightLoad(IntEnum):
    """How the weights of a phase get into shared memory: kWeights… of csrc/onchip/onchip.h."""

    THERE = 0
    PREFETCHED = 1
    NOW = 2


@dataclass(frozen=True)
class SharedMemory:
    """The shared memory of a device.

    Attributes:
        block: bytes that one block can have.
        processor: bytes of a multiprocessor.
    """

    block: int
    processor: int


@dataclass(frozen=True)
class OnChipPlan:
    """The plan of one launch.

    Attributes:
        mode: which passes it does.
        at: the first byte of each array, by name.
        bytes: of all arrays together.
        threads: in a block.
        blocks: how many share a multiprocessor.
        keeps: the layers whose weights are copied once and stay.
        loads: how each phase's weights get there, by (layer, whether backward).
        residue_bytes: of one image, in global memory.
        arrays: what was placed.
    """

    mode: Mode
    at: dict[tuple[str, int], int]
    bytes: int
    threads: int
    blocks: int
    keeps: frozenset[int]
    loads: dict[tuple[int, bool], WeightLoad]
    residue_bytes: int
    arrays: tuple[Array, ...] = field(repr=False)


def plan_shared_memory(
    layers: tuple[OnChipLayer, ...],
    mode: Mode,
    memory: SharedMemory,
    *,
    momentum: bool = False,
    threads: int | None = None,
) -> OnChipPlan:
    """Find a plan that fits: as many weights as can stay, others are copied when they are needed.

    Args:
        layers: the network.
        mode: what the launch does.
        memory: the device's.
        momentum: whether there is a velocity.
        threads: in a block, 128, 256 or 512; None for the rule.

    Raises:
        BackendError: none fits; the message says how much memory is needed at least.
    """
    others = list(launch_arrays(layers, mode, momentum))
    smallest = 0
    for keeps, waits in _residencies(layers):
        weights, loads = _weights(layers, mode, keeps, waits)
        arrays = others + weights
        least = least_bytes(arrays)
        smallest = min(smallest or least, least)
        if least > memory.block:
            continue
        at, size = place_arrays(arrays)
        if size <= memory.block:
            break
    else:
        raise BackendError(
            f"a step of {len(layers)} layers needs {smallest:,} bytes of shared memory at once; a "
            f"block of this device has {memory.block:,}"
        )
    if threads is None:
        threads = _threads(layers, MOST_THREADS)
        if memory.processor >= 2 * (size + RESERVED):
            threads = _threads(layers, MOST_THREADS // 2)
    blocks = max(1, min(memory.processor // (size + RESERVED), MOST_THREADS // threads))
    # A layer's weights may be one array for both directions; from here on each has its own name.
    for i in range(len(layers)):
        known = at.get(("forward weights", i), at.get(("backward weights", i)))
        assert known is not None
        at.setdefault(("forward weights", i), known)
        at.setdefault(("backward weights", i), known)
    residues = next(a.bytes for a in others if a.name[0] == "residues")
    return OnChipPlan(mode, at, size, threads, blocks, keeps, loads, residues, tuple(arrays))


def _weights(
    layers: tuple[OnChipLayer, ...], mode: Mode, keeps: frozenset[int], waits: frozenset[int]
) -> tuple[list[Array], dict[tuple[int, bool], WeightLoad]]:
    """The weights' arrays, and how each phase's weights get there.

    Args:
        layers: the network.
        mode: what the launch does.
        keeps: the layers whose weights stay.
        waits: those whose weights are copied at the start of their phase, which waits for them;
            the weights of all others are copied during the phase before.
    """
    phases = phases_of(len(layers), mode)
    always = frozenset(range(LOAD, len(phases))) | {STORE}
    arrays = [Array(("forward weights", i), layers[i].weight_bytes, always) for i in sorted(keeps)]
    loads: dict[tuple[int, bool], WeightLoad] = {}
    for t, (i, backward) in enumerate(phases):
        if i in keeps:
            loads[i, backward] = WeightLoad.THERE
            continue
        if t > 0 and phases[t - 1][0] == i:  # the last layer: its backward phase comes next
            forward = arrays.pop()
            arrays.append(replace(forward, alive=forward.alive | {t}))
            loads[i, backward] = WeightLoad.THERE
            continue
        if i in waits:
            alive, loads[i, backward] = frozenset({t}), WeightLoad.NOW
        else:
            # Those of a whole step's first phase are copied during the last phase of the step
            # before, and before the first step.
            again = {len(phases) - 1} if mode == WHOLE else set()
            before = {t - 1} if t > 0 else {LOAD} | again
            alive, loads[i, backward] = frozenset({t} | before), WeightLoad.PREFETCHED
        name = ("backward weights" if backward else "forward weights", i)
        arrays.append(Array(name, layers[i].weight_bytes, alive))
    return arrays, loads


def _residencies(
    layers: tuple[OnChipLayer, ...],
) -> Iterator[tuple[frozenset[int], frozenset[int]]]:
    """(keeps, waits) of `_weights` in order of preference.

    First those with nothing that waits, by how few bytes are copied in every step; then those with
    nothing that stays, by how few layers wait.
    """
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


def _threads(layers: tuple[OnChipLayer, ...], most: int) -> int:
    """A warp for each tile of the largest layer, 128 to `most` threads: with more, tiles would be
    smaller.

    Args:
        layers: the network.
        most: threads of a block; half of `MOST_THREADS` where two blocks share a multiprocessor.
    """
    tiles = max(
        -(-one.conv_shape[1] * one.conv_shape[2] // 64) * -(-padded(one.conv_shape[0]) // 32)
        for one in layers
    )
    return next((n for n in (128, 256) if n < most and tiles <= n // 32), most)
