"""Inverted residuals fused into one operation: equal to their convolutions, and which are found."""

from __future__ import annotations

import pytest
import torch
from block_programs import CASES, Builder, Case, block_program, mobilenet, program_of, with_changes

from sign_ext.compiler.ir.inverted_residual import InvertedResidual, blocks_of, fuse_blocks
from sign_ext.compiler.memory_plan import plan_memory
from sign_ext.compiler.schedule import schedule
from sign_ext.ops.activation import RELU, RELU6, Piecewise


def check(program, images, places) -> None:
    fused, _ = fuse_blocks(program, places)
    expected = program.pullback_of_ones(images)
    assert expected.norm() > 0
    got = fused.pullback_of_ones(images)
    assert (got - expected).norm() <= 1e-12 * expected.norm()


@pytest.mark.parametrize("case", CASES)
def test_one_block_is_its_three_convolutions(case, torch_rng):
    program, place = block_program(CASES[case])
    assert blocks_of(program) == (place,)
    images = torch.randn(3, *program.image_shape, generator=torch_rng, dtype=torch.float64)
    check(program, images, (place,))


def test_mobilenet_is_its_convolutions(torch_rng):
    model, images = mobilenet(torch_rng)
    program = program_of(model.double(), images.double())
    places = blocks_of(program)
    check(program, images.double(), places)
    check(program, images.double(), places[3:7:2])


def test_mobilenets_blocks_are_found(torch_rng):
    program = program_of(*mobilenet(torch_rng))
    places = blocks_of(program)
    # All but the first of its 17, which does not expand.
    assert places == tuple(range(6, 52, 3))
    fused, origin = fuse_blocks(program, places)
    assert origin == (0, 1, 2, 3, *places, 52)
    assert sum(isinstance(op, InvertedResidual) for op in fused.ops) == 16
    assert [op.output for op in fused.ops] == list(range(1, 22))
    skips = [op.inputs for op in fused.ops if len(op.inputs) > 1]
    assert len(skips) == 10
    assert all(x == residual for x, residual in skips)


def test_some_blocks_leave_the_others(torch_rng):
    program = program_of(*mobilenet(torch_rng))
    fused, origin = fuse_blocks(program, (9, 51))
    assert origin == (*range(7), *range(9, 49), 51, 52)
    assert fuse_blocks(program, ())[0].ops[5].inputs == program.ops[5].inputs
    for op, place in zip(fused.ops, origin, strict=True):
        assert op.shape == program.ops[place].shape
        assert isinstance(op, InvertedResidual) == (place in (9, 51))


def test_residues_and_arithmetic_are_those_of_the_three(torch_rng):
    program = program_of(*mobilenet(torch_rng))
    fused, _ = fuse_blocks(program, blocks_of(program))
    assert fused.residue_bytes() == program.residue_bytes()
    assert fused.flops() == program.flops()
    assert plan_memory(schedule(fused)).residues == fused.residue_bytes()


def test_constants_within_are_seen_and_changed():
    program, place = block_program(Case(residual="own"))
    fused, _ = fuse_blocks(program, (place,))
    assert len(fused.ops[1].constants()) == 6
    single = fused.to(torch.float32)
    assert {c.dtype for op in single.ops for c in op.constants()} == {torch.float32}
    assert single.ops[1].inputs == (1, 1)
    assert {c.dtype for c in fused.ops[1].constants()} == {torch.float64}


def test_it_prints():
    program, place = block_program(Case(stride=2, activations=(RELU6, RELU, RELU6)))
    fused, _ = fuse_blocks(program, (place,))
    block = "inverted residual 1×1 + relu6, 3×3/2 depthwise + relu, 1×1 + relu6"
    assert str(fused.ops[1]) == block
    # 24 × 5×7, 24 × 3×4 and 8 × 3×4 bits; the last ones first.
    keeps = "keeps bit mask 12 B, bit mask 105 B, bit mask 36 B"
    (line,) = [line for line in str(fused).splitlines() if line.startswith("%2")]
    assert f"{block}(%1)" in line
    assert line.endswith(keeps)
    program, place = block_program(CASES["residual from elsewhere"])
    assert "1×1 + residual(%1 %2)" in str(fuse_blocks(program, (place,))[0])


def test_of_two_that_share_a_convolution_the_first_is_taken():
    builder = Builder((3, 6, 6))
    x = builder.convolution((0,), 8, 3, activation=RELU)
    for _ in range(3):
        x = builder.convolution((x,), 16, activation=RELU)
        x = builder.convolution((x,), 16, 3, groups=16, activation=RELU)
    builder.convolution((x,), 8, activation=RELU)
    program = builder.program()
    assert blocks_of(program) == (3, 7)
    images = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    check(program, images, (3, 7))
    check(program, images, (5,))
    with pytest.raises(ValueError, match="no block can be fused at place 5: its first convolution"):
        fuse_blocks(program, (3, 5))


def stem_of_eight() -> tuple:
    builder = Builder((8, 5, 5))
    e = builder.convolution((0,), 16, activation=RELU)
    d = builder.convolution((e,), 16, 3, groups=16, activation=RELU)
    builder.convolution((d,), 8, activation=RELU)
    return builder.program(), 2


def channels(x: int = 8, expanded: int = 24, out: int = 8) -> tuple:
    builder = Builder((3, 5, 5))
    n = builder.convolution((0,), x, 3, activation=RELU)
    n = builder.convolution((n,), expanded, activation=RELU)
    n = builder.convolution((n,), expanded, 3, groups=expanded, activation=RELU)
    builder.convolution((n,), out, activation=RELU)
    return builder.program(), 3


def read_twice(which: int) -> tuple:
    """The expanded (2) or the depthwise (3) value has a second reader."""
    builder = Builder((3, 5, 5))
    x = builder.convolution((0,), 8, 3, activation=RELU)
    e = builder.convolution((x,), 24, activation=RELU)
    d = builder.convolution((e,), 24, 3, groups=24, activation=RELU)
    y = builder.convolution((d,), 24, activation=RELU)
    builder.add(y, which)
    return builder.program(), 3


def residual_within() -> tuple:
    program, place = read_twice(2)
    changes = {"inputs": (3, 2), "in_shapes": ((24, 5, 5), (24, 5, 5))}
    return with_changes(program, place, **changes), place


def dilated() -> tuple:
    builder = Builder((3, 9, 9))
    x = builder.convolution((0,), 8, 3, activation=RELU)
    e = builder.convolution((x,), 16, activation=RELU)
    d = builder.convolution((e,), 16, 3, groups=16, dilation=2, activation=RELU)
    builder.convolution((d,), 8, activation=RELU)
    return builder.program(), 3


def wide_project() -> tuple:
    builder = Builder((3, 9, 9))
    x = builder.convolution((0,), 8, 3, activation=RELU)
    e = builder.convolution((x,), 16, activation=RELU)
    d = builder.convolution((e,), 16, 3, groups=16, activation=RELU)
    builder.convolution((d,), 8, 3, activation=RELU)
    return builder.program(), 3


def summed_expand() -> tuple:
    builder = Builder((3, 9, 9))
    x = builder.convolution((0,), 16, 3, activation=RELU)
    e = builder.convolution((x, x), 16, activation=RELU)
    d = builder.convolution((e,), 16, 3, groups=16, activation=RELU)
    builder.convolution((d,), 8, activation=RELU)
    return builder.program(), 3


def leaky(which: int) -> tuple:
    program, place = channels()
    return with_changes(program, which, activation=Piecewise(slope=0.1)), place


REFUSED = {
    "leaky expand": (lambda: leaky(1), "the activation of convolution 1×1 .* is not a clamp"),
    "leaky depthwise": (lambda: leaky(2), "the activation of convolution 3×3 .* is not a clamp"),
    "leaky project": (lambda: leaky(3), "the activation of convolution 1×1 .* is not a clamp"),
    "the stem": (stem_of_eight, "is the first convolution, whose input-backward adds"),
    "channels in": (lambda: channels(x=12), "its channels are 12, 24, 8, not all multiples of 8"),
    "expanded": (lambda: channels(expanded=20), "its channels are 8, 20, 8, not all"),
    "channels out": (lambda: channels(out=9), "its channels are 8, 24, 9, not all"),
    "expanded value read twice": (lambda: read_twice(2), "only reader of a dense 1×1"),
    "depthwise value read twice": (lambda: read_twice(3), "only reader of a depthwise"),
    "residual within": (residual_within, "only reader of a dense 1×1 convolution"),
    "dilation": (dilated, "only reader of a depthwise convolution without dilation"),
    "3×3 at the end": (wide_project, "is not a dense 1×1 convolution of stride 1"),
    "expand with a residual": (summed_expand, "only reader of a dense 1×1 convolution"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_block_is_refused(case):
    build, why = REFUSED[case]
    program, place = build()
    assert place not in blocks_of(program)
    with pytest.raises(ValueError, match=f"no block can be fused at place {place}: .*{why}"):
        fuse_blocks(program, (place,))


@pytest.mark.parametrize("place", [-1, 5, 99])
def test_places_outside_are_refused(place):
    program, right = block_program(Case())
    with pytest.raises(ValueError, match=rf"place {place}: the program has 5 .* end at: {right};"):
        fuse_blocks(program, (right, place))


def test_wide_images_may_begin_with_a_block():
    """More than 16 channels: its first convolution is no stem."""
    builder = Builder((24, 5, 5))
    e = builder.convolution((0,), 48, activation=RELU)
    d = builder.convolution((e,), 48, 3, groups=48, activation=RELU)
    builder.convolution((d, 0), 24, activation=RELU)
    program = builder.program()
    assert blocks_of(program) == (2,)
    images = torch.randn(2, 24, 5, 5, dtype=torch.float64)
    check(program, images, (2,))
    assert schedule(fuse_blocks(program, (2,))[0]).stem == 0
