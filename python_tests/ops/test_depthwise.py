"""depthwise against torch's convolution in float64, on every route, dtype and geometry."""

from __future__ import annotations

import math

import pytest
import torch
from activate_checks import ACTIVATIONS, channels_innermost, needs_native
from depthwise_checks import (
    CONVOLUTIONS,
    DTYPES,
    check_depthwise,
    convolutions,
    normal,
    same,
    shapes,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from sign_ext.ops.activation import RELU6, Piecewise
from sign_ext.ops.depthwise import depthwise


@given(
    shape=shapes,
    convolution=convolutions(),
    dtype=st.sampled_from([*DTYPES, torch.float64]),
    activation=st.sampled_from(ACTIVATIONS),
    bias=st.booleans(),
    mask=st.booleans(),
    numbers=st.integers(0, 2**32 - 1),
)
def test_any_size_geometry_and_combination(
    shape, convolution, dtype, activation, bias, mask, numbers
):
    assume(convolution.fits(shape))
    generator = torch.Generator().manual_seed(numbers)
    check_depthwise(
        generator, shape, convolution, dtype, activation=activation, bias=bias, mask=mask
    )


@pytest.mark.parametrize("convolution", CONVOLUTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("run", [depthwise, depthwise.reference])
def test_geometries_of_networks(convolution, dtype, run, torch_rng):
    for channels in (11, 32, 96):
        shape = (2, channels, 13, 18)
        check_depthwise(torch_rng, shape, convolution, dtype, activation=RELU6, run=run)


@pytest.mark.parametrize("side", [3, 5, 7])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_images_smaller_than_a_window(side, size, stride, torch_rng):
    for channels in (16, 100, 200):
        shape = (3, channels, size, size)
        check_depthwise(torch_rng, shape, same(side, stride), torch.float32, activation=RELU6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_rows_than_one_thread_is_given(dtype, torch_rng):
    for convolution in CONVOLUTIONS[:6]:
        check_depthwise(torch_rng, (5, 33, 40, 38), convolution, dtype)


@pytest.mark.parametrize("run", [depthwise, depthwise.reference])
def test_zeros_lie_around_the_image_and_the_first_padding_is_the_tops(run):
    x, weight = torch.ones(1, 1, 2, 3), torch.arange(1.0, 10.0).view(3, 3, 1)
    out = torch.empty(1, 1, 2, 2)
    run(x, weight, out, padding=(0, 1), stride=(1, 2))
    # Rows 0 and 1 lie under the kernel's rows, columns 0 and 1 under its last two, then its first.
    assert out.flatten().tolist() == [2 + 3 + 5 + 6, 1 + 2 + 4 + 5, 2 + 3, 1 + 2]


@pytest.mark.parametrize("run", [depthwise, depthwise.reference])
def test_the_mask_follows_what_is_stored(run):
    x = torch.tensor([5.96875, 5.5, -0.5, math.nan]).view(1, 1, 1, 4).bfloat16()
    weight, bias = torch.ones(1, 1, 1), torch.tensor([0.02])
    out, mask = torch.empty_like(x), torch.empty(4, 1, dtype=torch.uint8)
    run(x, weight, out, bias=bias, activation=RELU6, mask=mask)
    assert out[0, 0, 0, 0] == 6.0  # 5.98875 is below, but its nearest bfloat16 value is not
    assert mask.flatten().tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("padding", [3, 5])
def test_more_padding_than_a_window_reaches(padding, torch_rng):
    x = normal(torch_rng, (2, 20, 4, 6), torch.float32, "cpu")
    weight = torch.randn(3, 3, 20, generator=torch_rng)
    filters = weight.permute(2, 0, 1)[:, None]
    expected = F.conv2d(x.double(), filters.double(), padding=padding, groups=20)
    out = channels_innermost(torch.empty(expected.shape))
    depthwise(x, weight, out, padding=(padding, padding))
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("run", [depthwise, depthwise.reference])
def test_an_empty_batch(run):
    x, out = (channels_innermost(torch.empty(0, 8, 4, 4)) for _ in range(2))
    run(x, torch.ones(3, 3, 8), out, padding=(1, 1))


def arguments(**changed):
    given = {
        "x": channels_innermost(torch.ones(2, 9, 4, 6)),
        "weight": torch.ones(3, 3, 9),
        "out": channels_innermost(torch.zeros(2, 9, 4, 6)),
        "mask": torch.zeros(48, 2, dtype=torch.uint8),
        "bias": torch.ones(9),
        "padding": (1, 1),
    }
    return given | changed


@needs_native
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"x": torch.ones(2, 9, 4, 6)}, "x must be dense with its channels innermost"),
        ({"x": torch.ones(2, 9)}, r"x must be \(N, C, H, W\)"),
        ({"out": torch.zeros(2, 9, 4, 6)}, "out must be dense with its channels innermost"),
        ({"out": channels_innermost(torch.zeros(2, 8, 4, 6))}, "out must have x's .* channels"),
        ({"out": channels_innermost(torch.zeros(2, 9, 4, 6)).bfloat16()}, "out must have x's"),
        ({"weight": torch.ones(3, 3, 8)}, r"weight must be \(KH, KW, 9\)"),
        ({"weight": torch.ones(9, 3, 3).permute(1, 2, 0)}, "weight must be 81 contiguous float32"),
        ({"weight": torch.ones(3, 3, 9).double()}, "weight must be 81 contiguous float32"),
        ({"bias": torch.ones(8)}, "bias must be 9 contiguous float32"),
        ({"mask": torch.zeros(48, 1, dtype=torch.uint8)}, r"mask must be .* \(48, 2\)"),
        ({"stride": (0, 1)}, "stride and dilation must be positive"),
        ({"padding": (1, -1)}, "padding not negative"),
        ({"stride": (1, 2)}, "window 5 of the width begins behind the image of 6 positions"),
        ({"activation": Piecewise(slope=-0.5)}, "slope must not be negative"),
        ({"activation": Piecewise(low=math.nan)}, "low and high must be numbers"),
    ],
)
def test_bad_arguments_are_refused_and_named(changed, words):
    given = arguments(**changed)
    x, weight, out = (given.pop(name) for name in ("x", "weight", "out"))
    with pytest.raises(RuntimeError, match=f"depthwise: .*{words}"):
        depthwise(x, weight, out, **given)
    assert not out.any()


@needs_native
def test_shared_memory_is_refused():
    given = arguments()
    x, weight = given["x"], given["weight"]
    with pytest.raises(RuntimeError, match="out shares memory with x"):
        depthwise(x, weight, x, padding=(1, 1))
    out = given["out"]
    mask = out.permute(0, 2, 3, 1).view(torch.uint8).flatten()[:96].view(48, 2)
    with pytest.raises(RuntimeError, match="mask shares memory with out"):
        depthwise(x, weight, out, padding=(1, 1), mask=mask)


def test_the_reference_refuses_by_name():
    x, out = torch.ones(2, 9, 4, 6), torch.ones(2, 8, 4, 6)
    with pytest.raises(ValueError, match="x, out and weight must have the same channels"):
        depthwise.reference(x, torch.ones(3, 3, 9), out, padding=(1, 1))
    with pytest.raises(ValueError, match="slope must not be negative"):
        depthwise.reference(
            x,
            torch.ones(1, 1, 9),
            torch.empty_like(x),
            activation=Piecewise(slope=-1.0),
            mask=torch.empty(48, 2, dtype=torch.uint8),
        )


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype, torch_rng):
    x, out = (normal(torch_rng, (2, 9, 4, 6), dtype, "cpu") for _ in range(2))
    given = arguments()
    for bias, mask in [(given["bias"], given["mask"]), (None, None)]:
        numbers = (0.0, 6.0, 0.0, 1, 1, 1, 1, 1, 1)
        results = torch.library.opcheck(
            torch.ops.sign_ext.depthwise, (x, given["weight"], out, bias, mask, *numbers)
        )
        assert set(results.values()) == {"SUCCESS"}


@needs_native
def test_fake_tensors_stay_what_they_are():
    with FakeTensorMode():
        x, out = (channels_innermost(torch.empty(2, 9, 4, 6)) for _ in range(2))
        weight = torch.empty(3, 3, 9)
        depthwise(x, weight, out, padding=(1, 1))
        assert out.shape == (2, 9, 4, 6)
        with pytest.raises(RuntimeError, match="out must have x's batch size"):
            depthwise(x, weight, out[:, :8], padding=(1, 1))
