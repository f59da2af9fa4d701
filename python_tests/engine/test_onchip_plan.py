"""The plan of shared memory: live arrays do not overlap, weights arrive before they are read."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from emulated_onchip import library
from hypothesis import given
from hypothesis import strategies as st
from onchip_cases import NETWORKS

from sign_ext import SignTransform
from sign_ext.engine.onchip.kernel_args import shift_for
from sign_ext.engine.onchip.partition import OnChipLayer, readers_of, trunk_of
from sign_ext.engine.onchip.plan import RESERVED, SharedMemory, WeightLoad, plan_shared_memory
from sign_ext.engine.onchip.shared_memory import (
    ALIGNMENT,
    BACKWARD,
    FORWARD,
    LOAD,
    WHOLE,
    least_bytes,
    phases_of,
    place_arrays,
)
from sign_ext.errors import BackendError
from sign_ext.ops.activation import IDENTITY, Piecewise

PLENTY = SharedMemory(10_000_000, 10_000_000)
H200 = SharedMemory(232_448, 233_472)
RELU = Piecewise(0.0, float("inf"), 0.0)
MODES = [WHOLE, FORWARD, BACKWARD]


def chain(*widths: int, size: int = 8, pooled: bool = False) -> tuple[OnChipLayer, ...]:
    """3×3 convolutions with padding, each with ReLU, the last pooled if asked."""
    layers = []
    for i, (before, after) in enumerate(pairwise(widths)):
        layers.append(
            OnChipLayer(
                weight=torch.zeros(after, before, 3, 3),
                bias=None,
                stride=(1, 1),
                padding=(1, 1),
                in_shape=(before, size, size),
                conv_shape=(after, size, size),
                pooled=pooled and i + 2 == len(widths),
                activation=RELU if i % 2 == 0 else IDENTITY,
                end=i + 1,
            )
        )
    return tuple(layers)


widths = st.lists(st.integers(1, 70), min_size=2, max_size=6)


def unlimited_bytes(layers, mode, momentum):
    """Bytes of the plan that nothing limits."""
    return plan_shared_memory(layers, mode, PLENTY, momentum=momentum).bytes


@given(widths, st.sampled_from(MODES), st.booleans(), st.booleans(), st.floats(0.3, 1.0))
def test_arrays_that_are_alive_together_share_no_memory(given_widths, mode, momentum, pooled, part):
    layers = chain(*given_widths, pooled=pooled)
    room = int(unlimited_bytes(layers, mode, momentum) * part)
    try:
        plan = plan_shared_memory(layers, mode, SharedMemory(room, room), momentum=momentum)
    except BackendError as error:
        assert f"{room:,}" in str(error)  # noqa: PT017  # the message names the limit
        return
    assert plan.bytes <= room
    for array in plan.arrays:
        at = plan.at[array.name]
        assert at % ALIGNMENT == 0
        assert at + array.bytes <= plan.bytes
        for other in plan.arrays:
            if other is array or not other.alive & array.alive:
                continue
            begin = plan.at[other.name]
            assert at + array.bytes <= begin or begin + other.bytes <= at, (array, other)


@given(widths, st.sampled_from(MODES), st.floats(0.3, 1.0))
def test_weights_are_in_place_before_their_phase(given_widths, mode, part):
    layers = chain(*given_widths)
    room = int(unlimited_bytes(layers, mode, False) * part)
    try:
        plan = plan_shared_memory(layers, mode, SharedMemory(room, room))
    except BackendError:
        return
    phases = phases_of(len(layers), mode)
    arrays = {array.name: array for array in plan.arrays}
    assert set(plan.loads) == set(phases)
    for t, (i, backward) in enumerate(phases):
        name = ("backward weights" if backward else "forward weights", i)
        array = arrays.get(name) or arrays["forward weights", i]
        assert plan.at[name] == plan.at[array.name]
        assert t in array.alive
        if plan.loads[i, backward] == WeightLoad.PREFETCHED:
            assert (t - 1 if t else LOAD) in array.alive
            if t == 0 and mode == WHOLE:
                assert len(phases) - 1 in array.alive  # the step before copies them
        if plan.loads[i, backward] == WeightLoad.THERE and i not in plan.keeps:
            # Only right after the layer's forward phase.
            assert phases[t - 1] == (i, False)
            assert t - 1 in array.alive


def test_as_many_weights_stay_as_fit():
    layers = chain(3, 32, 32, 64, size=16)
    sizes = []
    for room in (200_000, 120_000, 105_000, 95_000):
        plan = plan_shared_memory(layers, WHOLE, SharedMemory(room, room))
        sizes.append(sum(layers[i].weight_bytes for i in plan.keeps))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == sum(layer.weight_bytes for layer in layers)
    assert sizes[-1] < sizes[0]


def test_a_network_that_does_not_fit_says_how_much_it_needs():
    with pytest.raises(BackendError, match=r"2 layers needs [\d,]+ bytes .* has 50,000"):
        plan_shared_memory(chain(3, 64, 64, size=32), WHOLE, SharedMemory(50_000, 50_000))


def test_placement_is_near_the_least_that_any_has():
    plan = plan_shared_memory(chain(3, 32, 32, 64, 64, size=16), WHOLE, PLENTY)
    at, size = place_arrays(plan.arrays)
    assert size <= 1.05 * least_bytes(plan.arrays)
    assert place_arrays(plan.arrays) == (at, size)  # the same every time


def test_small_networks_share_a_multiprocessor():
    plan = plan_shared_memory(chain(3, 8, 8), WHOLE, H200)
    assert plan.blocks > 1
    assert plan.blocks * (plan.bytes + RESERVED) <= H200.processor
    assert plan.blocks * plan.threads <= 512


@pytest.mark.parametrize(("channels", "threads"), [(32, 128), (64, 256), (160, 512)])
def test_a_block_that_is_alone_has_a_warp_for_each_tile(channels, threads):
    """16x16 positions are 4 tiles of 64 for each 32 channels."""
    layers = chain(3, channels, channels, size=16)
    size = unlimited_bytes(layers, WHOLE, False)
    for blocks in (1, 2):
        memory = SharedMemory(size, blocks * (size + RESERVED))
        plan = plan_shared_memory(layers, WHOLE, memory)
        assert plan.threads == min(threads, 512 // blocks)
        assert plan.blocks == blocks


@pytest.mark.parametrize("channels", [8, 16, 24, 32, 64, 96, 128, 512])
@pytest.mark.parametrize("apart", [1, 2])
def test_the_shift_is_the_kernels(channels, apart):
    assert shift_for(channels, apart) == library().onchip_shift_for(channels, apart)


@pytest.mark.parametrize("name", ["residual", "two_readers"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("part", [1.0, 0.8, 0.65, 0.5])
def test_branches_and_sums_share_no_memory_while_they_are_alive(name, mode, part):
    make, shape, _ = NETWORKS[name]
    torch.manual_seed(0)
    program = SignTransform(make().eval(), 1).program(torch.rand(1, *shape))
    layers = trunk_of(program).layers
    room = int(unlimited_bytes(layers, mode, False) * part)
    try:
        plan = plan_shared_memory(layers, mode, SharedMemory(room, room))
    except BackendError:
        assert part < 1
        return
    arrays = {array.name: array for array in plan.arrays}
    phases = phases_of(len(layers), mode)
    for array in plan.arrays:
        for other in plan.arrays:
            if other is array or not other.alive & array.alive:
                continue
            at, begin = plan.at[array.name], plan.at[other.name]
            assert at + array.bytes <= begin or begin + other.bytes <= at, (array, other)
    for i, layer in enumerate(layers):
        if mode.forward and layer.adds is not None:
            assert phases.index((i, False)) in arrays["value", layer.adds].alive
        if mode.backward and layer.adds is not None:
            # Its cotangent is kept until the first convolution that reads what it adds.
            readers = readers_of(layers, layer.adds)
            if readers:
                assert phases.index((readers[0], True)) in arrays["g", i].alive
        readers = readers_of(layers, i)
        if mode.backward and len(readers) > 1:
            alive = {phases.index((n, True)) for n in readers}
            assert alive <= arrays["partial", i].alive
