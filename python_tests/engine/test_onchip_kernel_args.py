"""The arguments that Python writes are the structs that the kernel's header declares."""

from __future__ import annotations

import math

import pytest
import torch
from onchip_cases import prepare
from onchip_header import constants_of, fields_of, header, word

from sign_ext.engine.onchip.kernel_args import (
    FLOAT_FIELDS,
    LAYER_FIELDS,
    PLAN_FIELDS,
    shift_for,
)
from sign_ext.engine.onchip.partition import CHUNK, MOST_LAYERS, MOST_TAPS
from sign_ext.engine.onchip.plan import WeightLoad

HEADER = header("onchip.h")
TYPES = {True: "float", False: "std::int32_t"}


def declared(*names: str) -> list[tuple[str, str]]:
    """Python's fields as the header would declare them."""
    return [(TYPES[name in FLOAT_FIELDS], name) for name in names]


def test_a_layers_fields_are_the_headers():
    assert fields_of(HEADER, "Layer") == declared(*LAYER_FIELDS)


def test_a_plans_fields_are_the_headers():
    assert fields_of(HEADER, "Plan") == [*declared(*PLAN_FIELDS), ("Layer", "layer[kMostLayers]")]


def test_constants_are_the_headers():
    constants = constants_of(HEADER)
    assert constants["kMostLayers"] == MOST_LAYERS
    loads = {name: n for name, n in constants.items() if name.startswith("kWeights")}
    assert loads == {f"kWeights{load.name.title()}": load.value for load in WeightLoad}
    layout = constants_of(header("onchip_layout.h"))
    assert (layout["kChunk"], layout["kMostTaps"]) == (CHUNK, MOST_TAPS)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("kernel_h, kernel_w", "kernel_w, kernel_h"),
        ("std::int32_t adds;", "std::int32_t adds, another;"),
        ("std::int32_t kept;", ""),
        ("float low, high, slope;", "std::int32_t low, high, slope;"),
        ("std::int32_t g_at;", "std::int64_t g_at;"),
        ("value_at", "output_at"),
    ],
)
def test_a_changed_header_is_noticed(before, after):
    assert before in HEADER
    assert fields_of(HEADER.replace(before, after, 1), "Layer") != declared(*LAYER_FIELDS)


def test_every_value_is_where_the_header_has_it(seed):
    """Of "split": 9×11 images, layers 3 → 16, 16 → 24 pooled and 24 → 16, two launches."""
    trajectory, _, _ = prepare("split", seed, momentum=0.5)
    forward, backward = (launch.args for launch in trajectory.network.launches)
    plans = [launch.plan for launch in trajectory.network.launches]
    for args, plan, mode in zip((forward, backward), plans, ((1, 0), (0, 1)), strict=True):
        assert args.dtype == torch.int32
        assert int(word(args, "words")) == args.numel()
        assert int(word(args, "layers")) == 3
        assert tuple(int(word(args, name)) for name in ("forward", "backward")) == mode
        sizes = [int(word(args, name)) for name in ("height", "width", "channels")]
        assert sizes == [9, 11, 3]
        assert int(word(args, "shared_bytes")) == plan.bytes
        assert int(word(args, "threads")) == plan.threads
        assert int(word(args, "last_channels")) == 16
        for name, key in (("p_at", "p"), ("residues_at", "residues"), ("zeros_at", "zeros")):
            assert int(word(args, name)) == plan.at[key, -1]
        # Padded: an image's up to 8 channels to 8, others to a multiple of 16.
        channels = [(int(word(args, "in_c", i)), int(word(args, "out_c", i))) for i in range(3)]
        assert channels == [(8, 16), (16, 32), (32, 16)]
        sides = [(int(word(args, "in_h", i)), int(word(args, "in_w", i))) for i in range(3)]
        assert sides == [(9, 11), (9, 11), (4, 5)]
        assert [int(word(args, "pooled", i)) for i in range(3)] == [0, 1, 0]
        assert [int(word(args, "kept", i)) for i in range(3)] == [1, 3, 0]
        assert [int(word(args, "reads", i)) for i in range(3)] == [-1, 0, 1]
        assert [int(word(args, "adds", i)) for i in range(3)] == [-1, -1, -1]
        # Bits of a layer follow those of the one before, from a multiple of 4 bytes: a byte for 8
        # channels of a position, 9 * 11 * 2 and 4 * 5 * 4 * 3 bytes.
        assert [int(word(args, "residue_at", i)) for i in range(3)] == [0, 200, 200 + 20 * 4 * 3]
        for name, values in (
            ("low", [0, 0, -math.inf]),
            ("high", 3 * [math.inf]),
            ("slope", 3 * [0]),
        ):
            floats = torch.stack([word(args, name, i) for i in range(3)]).view(torch.float32)
            assert floats.tolist() == values
        assert [int(word(args, "value_shift", i)) for i in range(3)] == [
            shift_for(16, 2),
            shift_for(32, 1),
            shift_for(16, 1),
        ]
        assert not args[len(PLAN_FIELDS) + 3 * len(LAYER_FIELDS) :].any()
    assert int(word(forward, "velocity_at")) == -1
    assert int(word(backward, "velocity_at")) == plans[1].at["velocity", -1]
    assert int(word(forward, "x_at")) == plans[0].at["x", -1]
    assert int(word(backward, "x_at")) == -1
