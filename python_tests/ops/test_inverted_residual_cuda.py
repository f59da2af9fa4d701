"""inverted_residual on a GPU: against float64, against its emulation, refusals, determinism."""

from __future__ import annotations

import dataclasses
import os

import pytest
import torch
from emulated_blocks import Device, emulated_blocks
from inverted_residual_checks import CASES, UNIT, check_both, run_both

from sign_ext.ops.inverted_residual import inverted_residual

pytestmark = pytest.mark.gpu


@pytest.fixture
def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("precision", UNIT)
@pytest.mark.parametrize("images", [1, 3, 700])
@pytest.mark.parametrize("name", CASES)
def test_both_directions(name, images, precision, generator):
    if os.environ.get("HYPOTHESIS_PROFILE") == "sanitizer":
        images = min(images, 3)  # each takes a thousand times as long
    case = dataclasses.replace(CASES[name], shape=(images, *CASES[name].shape[1:]))
    run, _ = run_both(case, precision, generator, "cuda")
    check_both(case, run, precision)


@pytest.mark.parametrize("precision", UNIT)
@pytest.mark.parametrize("name", CASES)
def test_the_device_does_what_its_emulation_does(name, precision, generator, seed):
    state = generator.get_state()
    device, _ = run_both(CASES[name], precision, generator, "cuda")
    with emulated_blocks(Device(seed)):
        emulated, _ = run_both(CASES[name], precision, generator.set_state(state))
    # The matrix unit sums in another order, which changes few roundings; but a mask bit that one of
    # them flips is a whole term of the cotangent.
    for got, expected, close in (
        (device.out, emulated.out, 4 * UNIT[precision]),
        (device.cotangent, emulated.cotangent, 5e-2),
    ):
        difference = (got.cpu().double() - expected.double()).norm() / expected.double().norm()
        assert difference < close


@pytest.mark.parametrize("precision", UNIT)
def test_the_same_call_gives_the_same_bits(precision, generator):
    case = dataclasses.replace(CASES["mobilenet, skip"], shape=(999, 24, 8, 8))
    state = generator.get_state()
    first, _ = run_both(case, precision, generator, "cuda")
    second, _ = run_both(case, precision, generator.set_state(state), "cuda")
    assert torch.equal(first.out, second.out)
    assert torch.equal(first.cotangent, second.cotangent)


def test_what_does_not_fit_is_refused(generator):
    case = dataclasses.replace(CASES["mobilenet, stride 2"], shape=(1, 16, 64, 64))
    with pytest.raises(RuntimeError, match="does not fit the device's shared memory"):
        run_both(case, "float32", generator, "cuda")


def test_arguments_are_checked(generator):
    run, packed = run_both(CASES["mobilenet, skip"], "float32", generator, "cuda")
    arrays = packed.forward._replace(first=packed.forward.second)
    wrong = dataclasses.replace(packed, forward=arrays)
    with pytest.raises(RuntimeError, match="first must be"):
        inverted_residual(run.x, wrong, run.out, expand_mask=run.masks[0])
    with pytest.raises(RuntimeError, match="x shares memory with out"):
        inverted_residual(run.x, packed, run.x)
    with pytest.raises(RuntimeError, match="expand_mask must be"):
        inverted_residual(run.x, packed, run.out, expand_mask=run.masks[0][1:])
    with pytest.raises(RuntimeError, match="channels innermost"):
        inverted_residual(run.x.contiguous(), packed, run.out)
