"""depthwise against torch's convolution and its backward against autograd, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from activate_checks import ACTIVATIONS
from depthwise_checks import (
    CONVOLUTIONS,
    check_depthwise,
    check_depthwise_backward,
    convolutions,
    same,
    shapes,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from tensors import DTYPES, channels_last, needs_native, normal
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from sign_ext.ops.activation import RELU, RELU6, Piecewise, mask_shape
from sign_ext.ops.depthwise import depthwise, depthwise_backward


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
    out = channels_last(torch.empty(expected.shape))
    depthwise(x, weight, out, padding=(padding, padding))
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("run", [depthwise, depthwise.reference])
def test_an_empty_batch(run):
    x, out = (channels_last(torch.empty(0, 8, 4, 4)) for _ in range(2))
    run(x, torch.ones(3, 3, 8), out, padding=(1, 1))


def arguments(**changed):
    options = {
        "x": channels_last(torch.ones(2, 9, 4, 6)),
        "weight": torch.ones(3, 3, 9),
        "out": channels_last(torch.zeros(2, 9, 4, 6)),
        "mask": torch.zeros(48, 2, dtype=torch.uint8),
        "bias": torch.ones(9),
        "padding": (1, 1),
    }
    return options | changed


@needs_native
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.ones(2, 9, 4, 6)}, "x must be dense with its channels innermost"),
        ({"x": torch.ones(2, 9)}, r"x must be \(N, C, H, W\)"),
        ({"out": torch.zeros(2, 9, 4, 6)}, "out must be dense with its channels innermost"),
        ({"out": channels_last(torch.zeros(2, 8, 4, 6))}, "out must have x's .* channels"),
        ({"out": channels_last(torch.zeros(2, 9, 4, 6)).bfloat16()}, "out must have x's"),
        ({"weight": torch.ones(3, 3, 8)}, r"weight must be \(KH, KW, 9\)"),
        ({"weight": torch.ones(9, 3, 3).permute(1, 2, 0)}, "weight must be 81 contiguous float32"),
        ({"weight": torch.ones(3, 3, 9).double()}, "weight must be 81 contiguous float32"),
        ({"bias": torch.ones(8)}, "bias must be 9 contiguous float32"),
        ({"mask": torch.zeros(48, 1, dtype=torch.uint8)}, r"mask must be .* \(48, 2\)"),
        ({"stride": (0, 1)}, "stride and dilation must be positive"),
        ({"padding": (1, -1)}, "padding not negative"),
        ({"stride": (1, 2)}, "window 5 of the width begins past the image of 6 positions"),
        ({"activation": Piecewise(slope=-0.5)}, "slope must not be negative"),
        ({"activation": Piecewise(low=math.nan)}, "low and high must be numbers"),
    ],
)
def test_bad_arguments_are_refused_and_named(changed, message):
    options = arguments(**changed)
    x, weight, out = (options.pop(name) for name in ("x", "weight", "out"))
    with pytest.raises(RuntimeError, match=f"depthwise: .*{message}"):
        depthwise(x, weight, out, **options)
    assert not out.any()


@needs_native
def test_shared_memory_is_refused():
    options = arguments()
    x, weight = options["x"], options["weight"]
    with pytest.raises(RuntimeError, match="out shares memory with x"):
        depthwise(x, weight, x, padding=(1, 1))
    out = options["out"]
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
    options = arguments()
    for bias, mask in [(options["bias"], options["mask"]), (None, None)]:
        numbers = (0.0, 6.0, 0.0, 1, 1, 1, 1, 1, 1)
        results = torch.library.opcheck(
            torch.ops.sign_ext.depthwise, (x, options["weight"], out, bias, mask, *numbers)
        )
        assert set(results.values()) == {"SUCCESS"}


@needs_native
def test_fake_tensors_stay_what_they_are():
    with FakeTensorMode():
        x, out = (channels_last(torch.empty(2, 9, 4, 6)) for _ in range(2))
        weight = torch.empty(3, 3, 9)
        depthwise(x, weight, out, padding=(1, 1))
        assert out.shape == (2, 9, 4, 6)
        with pytest.raises(RuntimeError, match="out must have x's batch size"):
            depthwise(x, weight, out[:, :8], padding=(1, 1))


SLOPES = [None, 0.0, 0.25]


@given(
    shape=shapes,
    convolution=convolutions(),
    dtype=st.sampled_from([*DTYPES, torch.float64]),
    slope=st.sampled_from(SLOPES),
    other=st.sampled_from(["none", "apart", "out"]),
    x_slope=st.sampled_from(SLOPES),
    numbers=st.integers(0, 2**32 - 1),
)
def test_backward_any_size_geometry_and_combination(
    shape, convolution, dtype, slope, other, x_slope, numbers
):
    assume(convolution.fits(shape))
    generator = torch.Generator().manual_seed(numbers)
    check_depthwise_backward(
        generator, shape, convolution, dtype, slope=slope, other=other, x_slope=x_slope
    )


@pytest.mark.parametrize("convolution", CONVOLUTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("run", [depthwise_backward, depthwise_backward.reference])
def test_backward_geometries_of_networks(convolution, dtype, run, torch_rng):
    for channels in (11, 32, 96):
        for other, x_slope in [("none", None), ("apart", 0.0), ("out", 0.5)]:
            shape = (2, channels, 13, 18)
            check_depthwise_backward(
                torch_rng, shape, convolution, dtype, other=other, x_slope=x_slope, run=run
            )


@pytest.mark.parametrize("side", [3, 5, 7])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_backward_images_smaller_than_a_window(side, size, stride, torch_rng):
    for channels in (16, 100, 200):
        shape = (3, channels, size, size)
        check_depthwise_backward(torch_rng, shape, same(side, stride), torch.float32, x_slope=0.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_backward_more_rows_than_one_thread_is_given(dtype, torch_rng):
    for convolution in CONVOLUTIONS[:6]:
        check_depthwise_backward(torch_rng, (5, 33, 40, 38), convolution, dtype, other="out")


@pytest.mark.parametrize("convolution", CONVOLUTIONS)
@pytest.mark.parametrize(
    ("activation", "module"),
    [(RELU, F.relu), (RELU6, F.relu6), (Piecewise(slope=0.1), lambda v: F.leaky_relu(v, 0.1))],
)
def test_a_convolution_and_its_backward_are_autograds(convolution, activation, module, torch_rng):
    x = normal(torch_rng, (2, 19, 12, 17), torch.float32, "cpu")
    weight = torch.randn(*convolution.kernel, 19, generator=torch_rng)
    bias = torch.randn(19, generator=torch_rng)
    leaf = x.double().requires_grad_()
    expected = module(convolution.convolve(leaf, weight.double(), bias.double()))
    g = normal(torch_rng, tuple(expected.shape), torch.float32, "cpu")
    (cotangent,) = torch.autograd.grad(expected, leaf, g.double())

    y, mask = torch.empty_like(g), torch.empty(mask_shape(g.shape), dtype=torch.uint8)
    options = convolution.options
    depthwise(x, weight, y, bias=bias, activation=activation, mask=mask, **options)
    out = torch.empty_like(x)
    depthwise_backward(g, weight, out, mask=mask, slope=activation.slope, **options)
    torch.testing.assert_close(out.double(), cotangent, rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("run", [depthwise_backward, depthwise_backward.reference])
def test_backward_every_tap_reaches_its_own_pixel(run):
    g, weight = torch.zeros(1, 1, 2, 2), torch.arange(1.0, 10.0).view(3, 3, 1)
    g[0, 0, 1, 1] = 1.0
    out = torch.empty(1, 1, 4, 4)
    run(g, weight, out, stride=(2, 2), padding=(1, 0))  # the window begins at row 1, column 2
    assert out[0, 0].tolist() == [[0, 0, 0, 0], [0, 0, 1, 2], [0, 0, 4, 5], [0, 0, 7, 8]]


@pytest.mark.parametrize("padding", [3, 5])
def test_backward_more_padding_than_a_window_reaches(padding, torch_rng):
    leaf = torch.zeros(2, 20, 4, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 3, 20, generator=torch_rng)
    filters = weight.double().permute(2, 0, 1)[:, None]
    value = F.conv2d(leaf, filters, padding=padding, groups=20)
    g = normal(torch_rng, tuple(value.shape), torch.float32, "cpu")
    (expected,) = torch.autograd.grad(value, leaf, g.double())
    out = channels_last(torch.empty(leaf.shape))
    depthwise_backward(g, weight, out, padding=(padding, padding))
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("run", [depthwise_backward, depthwise_backward.reference])
def test_backward_an_empty_batch(run):
    g, out = (channels_last(torch.empty(0, 8, 4, 4)) for _ in range(2))
    run(g, torch.ones(3, 3, 8), out, padding=(1, 1))


def backward_arguments(**changed):
    options = {
        "g": channels_last(torch.zeros(2, 9, 2, 3)),
        "weight": torch.ones(3, 3, 9),
        "out": channels_last(torch.ones(2, 9, 4, 6)),
        "mask": torch.zeros(12, 2, dtype=torch.uint8),
        "other": channels_last(torch.zeros(2, 9, 4, 6)),
        "x_mask": torch.zeros(48, 2, dtype=torch.uint8),
        "stride": (2, 2),
        "padding": (1, 1),
    }
    return options | changed


@needs_native
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"g": torch.zeros(2, 9, 2, 3)}, "g must be dense with its channels innermost"),
        (
            {"g": channels_last(torch.zeros(2, 9, 2, 3)).bfloat16()},
            "g must have out's .*dtype",
        ),
        ({"out": torch.ones(2, 9, 4, 6)}, "out must be dense"),
        ({"out": channels_last(torch.ones(2, 8, 4, 6))}, "g must have out's .* channels"),
        ({"weight": torch.ones(3, 3, 8)}, r"weight must be \(KH, KW, 9\)"),
        ({"mask": torch.zeros(48, 2, dtype=torch.uint8)}, r"mask must be .* \(12, 2\)"),
        ({"x_mask": torch.zeros(12, 2, dtype=torch.uint8)}, r"x_mask must be .* \(48, 2\)"),
        ({"other": channels_last(torch.zeros(2, 9, 4, 5))}, "other must have out's shape"),
        ({"other": torch.zeros(2, 9, 4, 6)}, "other must be dense"),
        (
            {"other": channels_last(torch.zeros(2, 9, 4, 6)).bfloat16()},
            "other must have out's dtype",
        ),
        ({"slope": math.nan}, "slope and x_slope must be numbers"),
        ({"dilation": (0, 1)}, "stride and dilation must be positive"),
        ({"stride": (6, 2)}, "window 1 of the height begins past the image of 4 positions"),
    ],
)
def test_backward_bad_arguments_are_refused_and_named(changed, message):
    options = backward_arguments(**changed)
    g, weight, out = (options.pop(name) for name in ("g", "weight", "out"))
    with pytest.raises(RuntimeError, match=f"depthwise_backward: .*{message}"):
        depthwise_backward(g, weight, out, **options)
    assert out.eq(1).all()


@needs_native
def test_backward_shared_memory_is_refused():
    whole = channels_last(torch.zeros(3, 9, 4, 6))
    options = backward_arguments(out=whole[:2], other=whole[1:])
    g, weight, out = (options.pop(name) for name in ("g", "weight", "out"))
    with pytest.raises(RuntimeError, match="out shares memory with other"):
        depthwise_backward(g, weight, out, **options)
    g = whole.as_strided((2, 9, 2, 3), (54, 1, 27, 9), 100)
    with pytest.raises(RuntimeError, match="g shares memory with out"):
        depthwise_backward(g, weight, out, stride=(2, 2), padding=(1, 1))


def test_backward_the_reference_refuses_by_name():
    g, out = torch.ones(2, 9, 4, 6), torch.ones(2, 8, 4, 6)
    with pytest.raises(ValueError, match="g, out and weight must have the same channels"):
        depthwise_backward.reference(g, torch.ones(3, 3, 9), out, padding=(1, 1))


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
def test_backward_opcheck(dtype, torch_rng):
    options = backward_arguments()
    g, out, other = (
        normal(torch_rng, tuple(options[name].shape), dtype, "cpu")
        for name in ("g", "out", "other")
    )
    for mask, added, x_mask in [(options["mask"], other, options["x_mask"]), (None, None, None)]:
        numbers = (2, 2, 1, 1, 1, 1)
        arguments_of = (g, options["weight"], out, mask, 0.5, added, x_mask, 0.0, *numbers)
        results = torch.library.opcheck(torch.ops.sign_ext.depthwise_backward, arguments_of)
        assert set(results.values()) == {"SUCCESS"}


@needs_native
def test_backward_fake_tensors_stay_what_they_are():
    with FakeTensorMode():
        g, out = (channels_last(torch.empty(2, 9, 4, 6)) for _ in range(2))
        weight = torch.empty(3, 3, 9)
        depthwise_backward(g, weight, out, padding=(1, 1))
        assert out.shape == (2, 9, 4, 6)
        with pytest.raises(RuntimeError, match="g must have out's batch size"):
            depthwise_backward(g[:, :8], weight, out, padding=(1, 1))
