"""The check of a step on chip: rounding passes, however many bits it flips; faults do not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import onchip_header
import pytest
import torch
from emulated_onchip import library
from onchip_cases import distance, prepare

from sign_ext import BackendError
from sign_ext.engine.onchip.check import BIT_REACH, bits_of, check_step, examples_of, find_mismatch
from sign_ext.engine.onchip.partition import padded
from sign_ext.engine.onchip.reference import exact, forward_reference, rounded
from sign_ext.engine.onchip.shared_memory import residue_begins, residue_bytes


@contextmanager
def truncating() -> Iterator[None]:
    """Products are summed as on the device, truncated."""
    library().onchip_truncates(1)
    try:
        yield
    finally:
        library().onchip_truncates(0)


def word(trajectory, field: str, layer: int | None = None, launch: int = 0) -> torch.Tensor:
    """A word of a launch's plan, to be changed."""
    return onchip_header.word(trajectory.network.launches[launch].args, field, layer)


def between_launches(trajectory, change) -> None:
    """`change` the residues that a forward launch has written, before they are read."""
    run = trajectory._run

    def changed(*arguments, **options):
        run(*arguments, **options)
        if options["cotangent"] is None:
            change(options["residues"])

    trajectory._run = changed


# Faults of the kernel, the plan or the device: each changes one thing of "split", whose layers are
# 0: 3 → 16, ReLU;  1: 16 → 24, ReLU, pooled;  2: 24 → 16 and no activation, the last one on chip.


def a_wrong_weight(t):
    row = t.network.constants.weights[t.network.constants.weight_at[1] :][: 9 * 16 * 32]
    row[row.abs().argmax()] *= -1


def a_weight_of_the_last_layer(t):
    row = t.network.constants.weights[t.network.constants.weight_at[2] :][: 9 * 32 * 16]
    row[row.abs().argmax()] *= -1


def a_channel_dropped(t):
    begin = t.network.constants.weight_at[1]
    t.network.constants.weights[begin : begin + 9 * 16 * 32].view(-1, 32)[:, 5] = 0


def a_bias_missing(t):
    begin = t.network.constants.bias_at[1]
    t.network.constants.floats[begin : begin + 24] = 0


def a_tap_off_by_one(t):
    for launch in (0, 1):
        word(t, "pad_left", 1, launch).sub_(1)


def a_tap_off_by_one_backward(t):
    word(t, "pad_top", 2, 1).add_(1)


def weights_of_the_next_tap(t):
    word(t, "weight_element", 1, 1).add_(16 * 32)


def a_stale_halo(t):
    word(t, "zeros_at").copy_(word(t, "x_at"))


def mask_bits_of_other_elements(t):
    begin = residue_bytes(t.network.layers[0])
    between_launches(t, lambda residues: residues[:, :begin].copy_(residues[:, :begin].roll(1, 1)))


def a_pooling_position_off_by_one(t):
    layers = t.network.layers
    begin = residue_begins(layers)[1] + padded(layers[1].shape[0]) // 8  # the plane of low bits
    between_launches(t, lambda residues: residues[:, begin].bitwise_xor_(1))


def mask_bits_read_elsewhere(t):
    word(t, "residue_at", 1, 1).add_(12)


def a_step_of_another_size(t):
    run = t._run
    t._run = lambda *a, **o: run(*a, **{**o, "clamp_max": None})


FAULTS = {
    a_wrong_weight: "layer 2 of 3 on chip has .* (mask bits|pooling positions) wrong",
    a_weight_of_the_last_layer: "elements of the last value on chip are wrong",
    a_channel_dropped: "layer 2 of 3 on chip has .* wrong",
    a_bias_missing: "layer 2 of 3 on chip has .* wrong",
    a_tap_off_by_one: "layer 2 of 3 on chip has .* wrong",
    a_tap_off_by_one_backward: "δ is .* from the definition's through the same mask bits",
    weights_of_the_next_tap: "δ is .* from the definition's through the same mask bits",
    a_stale_halo: "layer 1 of 3 on chip has .* mask bits wrong",
    mask_bits_of_other_elements: "layer 1 of 3 on chip has .* mask bits wrong",
    a_pooling_position_off_by_one: r"layer 2 of 3 on chip has .* pooling positions wrong",
    mask_bits_read_elsewhere: "δ is .* from the definition's through the same mask bits",
    a_step_of_another_size: r"p is not p \+ step_size · δ after the step",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_named(fault, seed):
    trajectory, images, _ = prepare("split", seed, clamp=(0, 200))
    fault(trajectory)
    with pytest.raises(BackendError, match=f"^the first step on chip .*{FAULTS[fault]}.*; backend"):
        check_step(trajectory, images)


@pytest.mark.parametrize("field", ["partial_at", "added_at", "slope", "zeros_at", "weights"])
def test_faults_of_steps_in_one_launch(field, seed):
    """Of "two_readers": layers 1 and 2 read layer 0 and are added; 3 reads the sum and adds 0."""
    trajectory, images, _ = prepare("two_readers", seed, images=3)
    assert trajectory.network.is_whole
    if field == "zeros_at":
        word(trajectory, field).copy_(word(trajectory, "p_at"))
    elif field == "weights":
        begin = trajectory.network.constants.weight_at[2]
        trajectory.network.constants.weights[begin : begin + 8] = 0
    elif field == "slope":  # of what the backward pass lets through, and the forward pass as well
        word(trajectory, field, 0).copy_(torch.tensor(0.2).view(torch.int32))
    else:
        word(trajectory, field, 1).fill_(-1)
    where = "δ is" if field in ("partial_at", "added_at") else r"layer \d of 4|δ is"
    assert re.match(where, find_mismatch(trajectory, images))


@pytest.mark.parametrize("name", ["basic_cnn", "split", "residual"])
def test_truncated_sums_are_no_fault(name, seed):
    trajectory, images, _ = prepare(name, seed)
    with truncating():
        assert find_mismatch(trajectory, images) == ""


def test_a_bit_that_rounding_flips_is_no_fault():
    """Untrained ResNet-20, an image whose δ is 5% off by mask bits alone."""
    trajectory, images, _ = prepare("resnet20", 12)
    with truncating():
        assert find_mismatch(trajectory, images) == ""
        trajectory.start(images)
        trajectory.advance(1)
    moved = (trajectory.iterate.double() - images.double()) / 20
    assert distance(moved[0], trajectory.reference(images)[0]) > 0.02


@pytest.mark.parametrize("name", ["all_convolutions", "split", "two_readers"])
def test_the_kernels_bits_are_the_definitions(name, seed):
    """Except for the few near a tie; if they were read from a wrong place, half would differ."""
    trajectory, images, _ = prepare(name, seed, images=3)
    trunk = trajectory.network.trunk
    runs = forward_reference(trunk.layers, images, trunk.scale, trunk.shift)
    kernel = bits_of(trunk.layers, trajectory.observe(images).residues)
    for got, run in zip(kernel, runs, strict=True):
        assert float((got.passes == run.bits.passes).double().mean()) > 0.99
        if run.bits.winners is not None:
            assert float((got.winners == run.bits.winners).double().mean()) > 0.99


def test_the_variance_is_that_of_independent_roundings(seed):
    """Against one draw of them, uniform within 2^-8 of each value, the largest rounding error."""
    trajectory, images, _ = prepare("residual", seed, images=3)
    trunk = trajectory.network.trunk
    generator = torch.Generator().manual_seed(seed)

    def rounded_at_random(value):
        off = torch.rand(value.shape, generator=generator, dtype=value.dtype) * 2 - 1
        return value * (1 + 2**-8 * off)

    noisy, plain = (
        forward_reference(trunk.layers, images, trunk.scale, trunk.shift, how)
        for how in (rounded_at_random, exact)
    )
    for one, other in zip(noisy, plain, strict=True):
        ratio = (one.sums - other.sums).square().mean() / other.variance.mean()
        assert 0.5 < float(ratio) < 1.5


@pytest.mark.parametrize("flat", [False, True])
def test_sums_in_another_order_stay_within_reach(flat, seed):
    """A kernel whose sums are off by 2^-20, in the deepest network, also where pixels are equal."""
    trajectory, images, _ = prepare("resnet20", seed, images=4)
    trunk = trajectory.network.trunk
    images = images[:, :, :1, :1].expand_as(images) if flat else images
    generator = torch.Generator().manual_seed(seed)

    def rounded_from_other_sums(value):
        shape = (*value.shape[:2], 1, 1) if flat else value.shape
        off = torch.randn(shape, generator=generator, dtype=value.dtype)
        return rounded(value * (1 + 2**-20 * off))

    one, other = (
        forward_reference(trunk.layers, images, trunk.scale, trunk.shift, how)
        for how in (rounded_from_other_sums, rounded)
    )
    worst = [
        float(((a.sums - b.sums).abs() / b.variance.sqrt()).nan_to_num().max())
        for a, b in zip(one, other, strict=True)
    ]
    assert 0.1 < max(worst) < 0.75 * BIT_REACH


def test_examples_are_different_images():
    for count in (1, 3, 20):
        images = torch.rand(count, 3, 5, 4)
        examples = examples_of(images)
        assert 4 <= len(examples) <= 8
        assert len({tuple(image.flatten().tolist()) for image in examples}) == len(examples)
        assert torch.equal(examples[0], images[0])


@pytest.mark.parametrize("name", ["split", "two_readers"])
@pytest.mark.parametrize(
    "options", [{"clamp": (0, 200)}, {"clamp": (50, None), "momentum": 0.5}, {"step_size": 1e-6}]
)
def test_what_has_no_fault_passes(name, options, seed):
    trajectory, images, _ = prepare(name, seed, images=3, **options)
    check_step(trajectory, images)
