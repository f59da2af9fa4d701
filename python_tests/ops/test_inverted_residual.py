"""inverted_residual and its input-backward against torch's convolutions in float64.

The references run as they are; the kernel's text on the emulated device, through the operators'
schema and the arrays that `pack_block` makes.
"""

from __future__ import annotations

import math

import pytest
import torch
from emulated_blocks import Device, emulated_blocks
from inverted_residual_checks import CASES, HARDTANH, UNIT, check_both, random_block, run_both
from tensors import needs_native

from sign_ext.ops.activation import Piecewise, mask_shape
from sign_ext.ops.inverted_residual import (
    CHUNK,
    inverted_residual,
    inverted_residual_backward,
    pack_block,
    round_to_tf32,
)


@pytest.fixture
def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_reference(name, precision, generator):
    run, _ = run_both(CASES[name], precision, generator)
    check_both(CASES[name], run, precision)


@needs_native
@pytest.mark.parametrize("precision", UNIT)
@pytest.mark.parametrize("name", CASES)
def test_kernel(name, precision, generator, seed):
    with emulated_blocks(Device(seed, processors=4)) as device:
        run, _ = run_both(CASES[name], precision, generator)
    assert device.launches == 2
    check_both(CASES[name], run, precision)


@needs_native
@pytest.mark.parametrize("precision", UNIT)
def test_tiles_change_no_bit(precision, generator, seed):
    case = CASES["mobilenet, skip"]
    state = generator.get_state()
    results = []
    for device in (Device(seed), Device(seed + 1, processors=1), Device(seed, shared=100_000)):
        with emulated_blocks(device):
            run, _ = run_both(case, precision, generator.set_state(state))
        results.append((run.out, run.cotangent, *run.masks[:2]))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@needs_native
def test_a_block_that_does_not_fit_says_so(generator):
    with (
        emulated_blocks(Device(shared=20_000)),
        pytest.raises(RuntimeError, match="does not fit the device's shared memory"),
    ):
        run_both(CASES["mobilenet, stride 2"], "float32", generator)


@needs_native
def test_the_cotangent_may_be_added_to_itself(generator):
    """A block whose residual is its own input adds its cotangent to itself."""
    case = CASES["mobilenet, skip"]
    with emulated_blocks(Device()):
        run, packed = run_both(case, "float32", generator)
        bits = {"expand_mask": run.masks[0], "depthwise_mask": run.masks[1]}
        inverted_residual_backward(run.g, packed, run.cotangent, **bits, other=run.g)
    alone = torch.empty_like(run.cotangent)
    inverted_residual_backward.reference(run.g, packed, alone, **bits)
    torch.testing.assert_close(run.cotangent, alone + run.g, rtol=1e-5, atol=1e-4)


def test_reference_in_float64_is_autograds(generator):
    case = CASES["odd"]
    block = random_block(case, generator)
    double = block._replace(
        **{
            name: value.double()
            for name, value in block._asdict().items()
            if isinstance(value, torch.Tensor)
        }
    )
    packed = pack_block(double, torch.float64)
    x = torch.randn(case.shape, generator=generator, dtype=torch.float64, requires_grad=True)
    e = HARDTANH.apply(torch.einsum("nchw,oc->nohw", x, double.expand))
    padded = torch.nn.functional.pad(e, (0, 1, 2, 2))
    filters = double.depthwise.permute(2, 0, 1)[:, None]
    d = torch.nn.functional.conv2d(padded, filters, None, case.stride, groups=case.expanded).relu()
    y = torch.einsum("nchw,oc->nohw", d, double.project).relu()
    g = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    (expected,) = torch.autograd.grad(y, x, g)
    n, _, height, width = case.shape
    bits = {
        "expand_mask": torch.empty(mask_shape((n, 40, height, width)), dtype=torch.uint8),
        "depthwise_mask": torch.empty(mask_shape((n, 40, *y.shape[2:])), dtype=torch.uint8),
    }
    out, got = torch.empty_like(y), torch.empty_like(x)
    last = torch.empty(mask_shape(y.shape), dtype=torch.uint8)
    inverted_residual.reference(x.detach(), packed, out, **bits, mask=last)
    torch.testing.assert_close(out, y, rtol=1e-12, atol=1e-12)
    inverted_residual_backward.reference(g * (y > 0), packed, got, **bits)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_arrays_hold_every_weight_once(generator):
    case = CASES["odd"]
    block = random_block(case, generator)
    packed = pack_block(block, torch.float32)
    for arrays, first, second in (
        (packed.forward, block.expand, block.project),
        (packed.backward, block.project.t(), block.expand.t()),
    ):
        for c in range(case.expanded):
            chunk, within = divmod(c, CHUNK)
            column = arrays.first[chunk, :, within]
            assert torch.equal(column[: first.shape[1]], first[c])
            assert not column[first.shape[1] :].any()
            row = arrays.second[chunk, within]
            assert torch.equal(row[: len(second)], second[:, c])
            taps = arrays.taps[chunk, :, within]
            assert torch.equal(taps, block.depthwise[:, :, c].flatten())
        assert not arrays.first[-1, :, case.expanded % CHUNK :].any()
        assert not arrays.second[-1, case.expanded % CHUNK :].any()


def test_rounding_to_tf32():
    x = torch.tensor([1 + 2.0**-11, 1 + 2.0**-12, -1 - 2.0**-11, 3.0, math.inf, 0.0])
    expected = [1 + 2.0**-10, 1.0, -1 - 2.0**-10, 3.0, math.inf, 0.0]
    assert round_to_tf32(x).tolist() == expected
    packed = pack_block(random_block(CASES["odd"], torch.Generator()), torch.float32, tf32=True)
    assert packed.precision == "tf32"
    assert torch.equal(round_to_tf32(packed.forward.first), packed.forward.first)
    assert not torch.equal(
        packed.forward.first, pack_block(packed.block, torch.float32).forward.first
    )


@needs_native
def test_operators_refuse_what_is_not_on_cuda():
    x = torch.zeros(1, 8, 1, 1)
    with pytest.raises(NotImplementedError):
        torch.ops.sign_ext.inverted_residual_backward(
            x, x, x, x, 8, 1, 1, 1, 1, 0, 0, False, x, None, None, None
        )


def test_leaky_blocks_are_refused(generator):
    block = random_block(CASES["linear"], generator)
    leaky = block._replace(depthwise_activation=Piecewise(slope=0.1))
    with pytest.raises(ValueError, match="one is a leaky ReLU"):
        pack_block(leaky, torch.float32)


def test_a_block_without_kernel_runs_its_reference(generator):
    """On a CPU, whatever the channels."""
    case = CASES["linear"]
    run, packed = run_both(case, "float32", generator)
    expected = torch.empty_like(run.out)
    inverted_residual.reference(run.x, packed, expected)
    inverted_residual(run.x, packed, run.out)
    assert torch.equal(run.out, expected)
