"""max_pool against torch's own pooling and its backward against autograd, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from max_pool_checks import ACTIVATIONS, check_max_pool, check_max_pool_backward
from pool_windows import WINDOWS, Window, shapes, windows
from tensors import DTYPES, channels_last, needs_native
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from sign_ext.ops import native
from sign_ext.ops.activation import IDENTITY, RELU, RELU6, Piecewise, mask_shape
from sign_ext.ops.max_pool import (
    index_bits,
    index_shape,
    max_pool,
    max_pool_backward,
    pack_index,
    unpack_index,
)


@given(
    shape=shapes,
    window=windows(),
    dtype=st.sampled_from([*DTYPES, torch.float64]),
    activation=st.sampled_from(ACTIVATIONS),
    bias=st.booleans(),
    mask=st.booleans(),
    nan=st.booleans(),
    numbers=st.integers(0, 2**32 - 1),
)
def test_any_size_window_and_combination(
    shape, window, dtype, activation, bias, mask, nan, numbers
):
    assume(window.fits(*shape[2:]))
    generator = torch.Generator().manual_seed(numbers)
    check_max_pool(generator, shape, window, dtype, activation, bias=bias, mask=mask, nan=nan)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("run", [max_pool, max_pool.reference])
def test_windows_of_networks(window, dtype, run, torch_rng):
    for channels in (16, 22, 64):
        for nan in (False, True):
            shape = (2, channels, 13, 18)
            check_max_pool(torch_rng, shape, window, dtype, RELU, nan=nan, run=run)


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_rows_than_one_thread_is_given(dtype, torch_rng):
    for window in WINDOWS[:5]:
        check_max_pool(torch_rng, (5, 33, 40, 38), window, dtype, RELU, nan=False)


def test_more_rows_out_than_elements_in_a_row_of_windows(torch_rng):
    """One channel, one column: what a row of the output reads is less than an element."""
    window = Window((2, 1), (1, 1), (1, 0), (1, 1), ceil_mode=False)
    for height in (1, 4):
        check_max_pool(torch_rng, (2, 1, height, 1), window, torch.float32, IDENTITY)


@pytest.mark.parametrize("run", [max_pool, max_pool.reference])
@pytest.mark.parametrize("channels", [1, 16])
def test_ties_and_nan_are_pytorchs(run, channels):
    nan, inf = math.nan, math.inf
    rows = [  # a window's values, and the position that wins
        ([1.0, 3.0, 3.0, 2.0], 1),
        ([-inf, -inf, -inf, -inf], 0),
        ([nan, 5.0, 1.0, 2.0], 0),
        ([9.0, nan, 1.0, 2.0], 1),
        ([nan, 5.0, nan, inf], 2),
        ([-0.0, 0.0, -0.0, 0.0], 0),
    ]
    for values, position in rows:
        x = channels_last(torch.tensor(values).view(1, 1, 2, 2).repeat(1, channels, 1, 1))
        y, index = torch.empty(1, channels, 1, 1), torch.empty(1, -(-channels // 8), 2).byte()
        run(x, y, index, kernel=(2, 2), stride=(2, 2))
        assert unpack_index(index, y.shape).flatten().tolist() == [position] * channels
        torch.testing.assert_close(
            y.flatten(), torch.full((channels,), values[position]), rtol=0, atol=0, equal_nan=True
        )


def test_index_holds_each_channels_position_in_its_bits():
    for kernel, bits in [((1, 1), 2), ((2, 2), 2), ((1, 5), 4), ((4, 4), 4), ((5, 5), 8)]:
        assert index_bits(kernel) == bits
    assert index_bits((16, 16)) == 8
    with pytest.raises(ValueError, match="17×16 has more than 256"):
        index_bits((17, 16))
    assert index_shape((2, 9, 3, 5), (3, 3)) == (30, 2, 4)
    where = torch.tensor([3, 1, 0, 2, 2, 0, 0, 1, 3]).view(1, 9, 1, 1)
    packed = pack_index(where, 2)
    assert packed.tolist() == [[[0b10000111, 0b01000010], [3, 0]]]
    assert torch.equal(unpack_index(packed, where.shape), where)


@pytest.mark.parametrize("run", [max_pool, max_pool.reference])
def test_an_empty_batch(run):
    y, index = channels_last(torch.empty(0, 8, 2, 2)), torch.empty(0, 1, 2, dtype=torch.uint8)
    run(channels_last(torch.empty(0, 8, 4, 4)), y, index, kernel=(2, 2), stride=(2, 2))


def test_the_reference_runs_where_nothing_is_built(monkeypatch, torch_rng):
    monkeypatch.setattr(native, "NATIVE", native.Native(None, "left out for this test"))
    calls = []
    reference = max_pool.reference

    def counted(*args, **options):
        calls.append(1)
        reference(*args, **options)

    monkeypatch.setattr(max_pool, "reference", counted)
    x = channels_last(torch.randn(1, 3, 4, 4, generator=torch_rng))
    y, index = torch.empty(1, 3, 2, 2), torch.empty(4, 1, 2, dtype=torch.uint8)
    max_pool(x, y, index, kernel=(2, 2), stride=(2, 2))
    assert calls == [1]
    torch.testing.assert_close(y, torch.nn.functional.max_pool2d(x, 2))


def arguments(**changed):
    options = {
        "x": channels_last(torch.zeros(2, 9, 4, 6)),
        "out": channels_last(torch.zeros(2, 9, 2, 3)),
        "index": torch.zeros(12, 2, 2, dtype=torch.uint8),
        "mask": torch.zeros(12, 2, dtype=torch.uint8),
        "bias": torch.zeros(9),
        "kernel": (2, 2),
        "stride": (2, 2),
        "activation": RELU,
    }
    return options | changed


@needs_native
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": torch.zeros(2, 9, 4, 6)}, "x must be dense with its channels innermost"),
        ({"x": torch.zeros(2, 9)}, r"x must be \(N, C, H, W\)"),
        ({"out": torch.zeros(2, 9, 2, 3)}, "out must be dense"),
        ({"out": channels_last(torch.zeros(1, 9, 2, 3))}, "out must have x's batch size"),
        ({"out": channels_last(torch.zeros(2, 8, 2, 3))}, "out must have x's batch size, channels"),
        ({"out": channels_last(torch.zeros(2, 9, 2, 3)).bfloat16()}, "dtype"),
        ({"index": torch.zeros(12, 2, 2)}, "index must be contiguous uint8"),
        ({"index": torch.zeros(12, 2, 4, dtype=torch.uint8)}, r"shape \(12, 2, 2\)"),
        ({"mask": torch.zeros(12, 1, dtype=torch.uint8)}, r"mask must be .* \(12, 2\)"),
        ({"bias": torch.zeros(8)}, "bias must be 9"),
        ({"bias": torch.zeros(9).double()}, "bias must be 9 contiguous float32"),
        ({"kernel": (17, 17)}, "more than 256 positions"),
        ({"kernel": (0, 2)}, "kernel, stride and dilation must be positive"),
        ({"stride": (2, 0)}, "stride and dilation must be positive"),
        ({"padding": (-1, 0)}, "padding not negative"),
        ({"padding": (2, 0)}, "padding must be smaller than the window"),
        ({"stride": (4, 2)}, "window 1 begins past the image of 4 positions"),
        ({"dilation": (9, 1), "padding": (5, 0)}, "window 0 has no position inside"),
        ({"activation": Piecewise(slope=-0.5)}, "slope must not be negative"),
        ({"activation": Piecewise(low=math.nan)}, "low and high must be numbers"),
    ],
)
def test_bad_arguments_are_refused_and_named(changed, message):
    options = arguments(**changed)
    x, out, index = options.pop("x"), options.pop("out"), options.pop("index")
    with pytest.raises(RuntimeError, match=message):
        max_pool(x, out, index, **options)


@needs_native
def test_shared_memory_is_refused():
    options = arguments()
    x, out, index = options.pop("x"), options.pop("out"), options.pop("index")
    with pytest.raises(RuntimeError, match="out shares memory with x"):
        max_pool(x, x.as_strided(out.shape, out.stride(), 100), index, **options)
    options["mask"] = torch.empty(0, dtype=torch.uint8).set_(out.untyped_storage(), 0, (12, 2))
    with pytest.raises(RuntimeError, match="mask shares memory with out"):
        max_pool(x, out, index, **options)
    options["mask"] = index.view(-1)[:24].view(12, 2)
    with pytest.raises(RuntimeError, match="mask shares memory with index"):
        max_pool(x, out, index, **options)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype, torch_rng):
    x = channels_last(torch.randn(2, 9, 5, 6, generator=torch_rng).to(dtype))
    y = torch.zeros_like(x[:, :, :2, :3]).contiguous(memory_format=torch.channels_last)
    index = torch.zeros(12, 2, 2, dtype=torch.uint8)
    mask = torch.zeros(12, 2, dtype=torch.uint8)
    numbers = (2, 2, 2, 2, 0, 0, 1, 1)
    for constants in [(torch.ones(9), mask), (None, None)]:
        results = torch.library.opcheck(
            torch.ops.sign_ext.max_pool, (x, y, index, *constants, *RELU, *numbers)
        )
        assert set(results.values()) == {"SUCCESS"}


@needs_native
def test_fake_tensors_stay_what_they_are():
    with FakeTensorMode():
        x, y = channels_last(torch.empty(2, 9, 4, 4)), channels_last(torch.empty(2, 9, 2, 2))
        index = torch.empty(8, 2, 2, dtype=torch.uint8)
        max_pool(x, y, index, kernel=(2, 2), stride=(2, 2), activation=IDENTITY)
        assert y.shape == (2, 9, 2, 2)
        with pytest.raises(RuntimeError, match="out must have x's channels"):
            max_pool(x, y[:, :8], index, kernel=(2, 2), stride=(2, 2))


def test_window_names_the_positions_that_torch_found():
    """The tests' own conversion of torch's flat index, on one window by hand."""
    x = torch.zeros(1, 1, 4, 5)
    x[0, 0, 2, 3] = 1.0
    value, position = Window((3, 3), (2, 2), (1, 1)).max_pool(x)
    assert value[0, 0, 1].tolist() == [0.0, 1.0, 1.0]
    assert position[0, 0, 1, 1:].tolist() == [5, 3]


SLOPES = [None, 0.0, 0.25]


@given(
    shape=shapes,
    window=windows(),
    dtype=st.sampled_from([*DTYPES, torch.float64]),
    slope=st.sampled_from(SLOPES),
    other=st.sampled_from(["none", "apart", "out"]),
    x_slope=st.sampled_from(SLOPES),
    numbers=st.integers(0, 2**32 - 1),
)
def test_backward_any_size_window_and_combination(
    shape, window, dtype, slope, other, x_slope, numbers
):
    assume(window.fits(*shape[2:]))
    generator = torch.Generator().manual_seed(numbers)
    check_max_pool_backward(
        generator, shape, window, dtype, slope=slope, other=other, x_slope=x_slope
    )


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("run", [max_pool_backward, max_pool_backward.reference])
def test_backward_windows_of_networks(window, dtype, run, torch_rng):
    for channels in (16, 22, 64):
        for other, x_slope in [("none", None), ("apart", 0.0), ("out", 0.5)]:
            shape = (2, channels, 13, 18)
            check_max_pool_backward(
                torch_rng, shape, window, dtype, other=other, x_slope=x_slope, run=run
            )


@pytest.mark.parametrize("dtype", DTYPES)
def test_backward_more_rows_than_one_thread_is_given(dtype, torch_rng):
    for window in WINDOWS[:6]:
        check_max_pool_backward(torch_rng, (5, 33, 40, 38), window, dtype, other="out")


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(
    ("activation", "module"),
    [(RELU, F.relu), (RELU6, F.relu6), (Piecewise(slope=0.1), lambda v: F.leaky_relu(v, 0.1))],
)
def test_a_pooling_and_its_backward_are_autograds(window, activation, module, torch_rng):
    x = channels_last(torch.randn(2, 11, 12, 17, generator=torch_rng) * 4)
    bias = torch.randn(11, generator=torch_rng)
    leaf = x.double().requires_grad_()
    expected = module(window.max_pool(leaf)[0] + bias.double()[:, None, None])
    g = channels_last(torch.randn(expected.shape, generator=torch_rng))
    (cotangent,) = torch.autograd.grad(expected, leaf, g.double())

    y = channels_last(torch.empty(expected.shape))
    index = torch.empty(index_shape(y.shape, window.kernel), dtype=torch.uint8)
    mask = torch.empty(mask_shape(y.shape), dtype=torch.uint8)
    max_pool(x, y, index, **window.options, bias=bias, activation=activation, mask=mask)
    out = torch.empty_like(x)
    max_pool_backward(g, index, out, **window.options, mask=mask, slope=activation.slope)
    torch.testing.assert_close(out.double(), cotangent, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("run", [max_pool_backward, max_pool_backward.reference])
def test_backward_an_empty_batch(run):
    g, index = channels_last(torch.empty(0, 8, 2, 2)), torch.empty(0, 1, 2, dtype=torch.uint8)
    out = channels_last(torch.empty(0, 8, 4, 4))
    run(g, index, out, kernel=(2, 2), stride=(2, 2))


def backward_arguments(**changed):
    options = {
        "g": channels_last(torch.zeros(2, 9, 2, 3)),
        "index": torch.zeros(12, 2, 2, dtype=torch.uint8),
        "out": channels_last(torch.ones(2, 9, 4, 6)),
        "mask": torch.zeros(12, 2, dtype=torch.uint8),
        "other": channels_last(torch.zeros(2, 9, 4, 6)),
        "x_mask": torch.zeros(48, 2, dtype=torch.uint8),
        "kernel": (2, 2),
        "stride": (2, 2),
    }
    return options | changed


@needs_native
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"g": torch.zeros(2, 9, 2, 3)}, "g must be dense with its channels innermost"),
        ({"g": channels_last(torch.zeros(2, 9, 2, 3)).bfloat16()}, "g must have out's .* dtype"),
        ({"out": torch.zeros(2, 9, 4, 6)}, "out must be dense"),
        ({"out": channels_last(torch.zeros(2, 8, 4, 6))}, "g must have out's batch size, channels"),
        ({"index": torch.zeros(12, 2, 4, dtype=torch.uint8)}, r"index .* \(12, 2, 2\)"),
        ({"mask": torch.zeros(48, 2, dtype=torch.uint8)}, r"mask must be .* \(12, 2\)"),
        ({"x_mask": torch.zeros(12, 2, dtype=torch.uint8)}, r"x_mask must be .* \(48, 2\)"),
        ({"other": channels_last(torch.zeros(2, 9, 4, 5))}, "other must have out's shape"),
        ({"other": torch.zeros(2, 9, 4, 6)}, "other must be dense"),
        (
            {"other": channels_last(torch.zeros(2, 9, 4, 6)).bfloat16()},
            "other must have out's dtype",
        ),
        ({"stride": (4, 2)}, "window 1 begins past the image of 4 positions"),
        ({"kernel": (17, 17), "padding": (8, 8)}, "more than 256 positions"),
    ],
)
def test_backward_bad_arguments_are_refused_and_named(changed, message):
    options = backward_arguments(**changed)
    g, index, out = options.pop("g"), options.pop("index"), options.pop("out")
    with pytest.raises(RuntimeError, match=message):
        max_pool_backward(g, index, out, **options)
    assert not options["other"].any()


@needs_native
def test_backward_shared_memory_is_refused():
    whole = torch.zeros(3, 4, 6, 9).permute(0, 3, 1, 2)
    options = backward_arguments(out=whole[:2], other=whole[1:])
    g, index, out = options.pop("g"), options.pop("index"), options.pop("out")
    with pytest.raises(RuntimeError, match="out shares memory with other"):
        max_pool_backward(g, index, out, **options)
    g = whole.as_strided((2, 9, 2, 3), (54, 1, 27, 9), 100)
    with pytest.raises(RuntimeError, match="g shares memory with out"):
        max_pool_backward(g, index, out, kernel=(2, 2), stride=(2, 2))


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
def test_backward_opcheck(dtype, torch_rng):
    options = backward_arguments()
    numbers = (2, 2, 2, 2, 0, 0, 1, 1)
    g, out = (
        channels_last(torch.randn(options[name].shape, generator=torch_rng).to(dtype))
        for name in ("g", "out")
    )
    for mask, other, x_mask in [
        (options["mask"], options["other"].to(dtype), options["x_mask"]),
        (None, None, None),
    ]:
        arguments_of = (g, options["index"], out, mask, 0.5, other, x_mask, 0.0, *numbers)
        results = torch.library.opcheck(torch.ops.sign_ext.max_pool_backward, arguments_of)
        assert set(results.values()) == {"SUCCESS"}


@needs_native
def test_backward_fake_tensors_stay_what_they_are():
    with FakeTensorMode():
        g, out = channels_last(torch.empty(2, 9, 2, 2)), channels_last(torch.empty(2, 9, 4, 4))
        index = torch.empty(8, 2, 2, dtype=torch.uint8)
        max_pool_backward(g, index, out, kernel=(2, 2), stride=(2, 2))
        assert out.shape == (2, 9, 4, 4)
        with pytest.raises(RuntimeError, match="channels must agree"):
            max_pool_backward(g[:, :8], index, out, kernel=(2, 2), stride=(2, 2))
