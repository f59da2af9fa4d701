"""average_pool_backward against autograd of torch's own pooling, on every route and window."""

from __future__ import annotations

import math

import pytest
import torch
from average_pool_backward_checks import check_average_pool_backward
from hypothesis import assume, given
from hypothesis import strategies as st
from pool_windows import WINDOWS, Window, shapes, windows
from tensors import DTYPES, channels_last, needs_native
from torch._subclasses.fake_tensor import FakeTensorMode

from sign_ext.ops.average_pool_backward import average_pool_backward

UNDILATED = [window for window in WINDOWS if window.dilation == (1, 1)]


@given(
    shape=shapes,
    window=windows(dilated=False),
    dtype=st.sampled_from([*DTYPES, torch.float64]),
    count_include_pad=st.booleans(),
    divisor=st.sampled_from([None, None, 1, 7, -3]),
    other=st.sampled_from(["none", "apart", "out"]),
    x_slope=st.sampled_from([None, 0.0, 0.25]),
    numbers=st.integers(0, 2**32 - 1),
)
def test_any_size_window_and_combination(
    shape, window, dtype, count_include_pad, divisor, other, x_slope, numbers
):
    assume(window.fits(*shape[2:]))
    check_average_pool_backward(
        torch.Generator().manual_seed(numbers),
        shape,
        window,
        dtype,
        count_include_pad=count_include_pad,
        divisor=divisor,
        other=other,
        x_slope=x_slope,
    )


@pytest.mark.parametrize("window", UNDILATED)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("run", [average_pool_backward, average_pool_backward.reference])
def test_windows_of_networks(window, dtype, count_include_pad, run, torch_rng):
    for channels in (16, 22, 80):
        for other, x_slope in [("none", None), ("apart", 0.0), ("out", 0.5)]:
            check_average_pool_backward(
                torch_rng,
                (2, channels, 13, 18),
                window,
                dtype,
                count_include_pad=count_include_pad,
                other=other,
                x_slope=x_slope,
                run=run,
            )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("other", ["none", "out"])
def test_a_global_pooling(dtype, other, torch_rng):
    for channels in (3, 16, 100):
        for height, width in [(8, 8), (5, 7), (1, 1)]:
            window = Window((height, width), (height, width))
            shape = (3, channels, height, width)
            check_average_pool_backward(torch_rng, shape, window, dtype, other=other, x_slope=0.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_rows_than_one_thread_is_given(dtype, torch_rng):
    for window in UNDILATED[:6]:
        check_average_pool_backward(
            torch_rng, (5, 33, 40, 38), window, dtype, count_include_pad=False, other="out"
        )


@pytest.mark.parametrize("run", [average_pool_backward, average_pool_backward.reference])
def test_a_cotangent_reaches_its_window_alone(run):
    """NaN and infinity stay in the window that they belong to."""
    for kernel, stride, padding in [((2, 2), (2, 2), (0, 0)), ((3, 3), (1, 1), (1, 1))]:
        size = 4 if kernel == (2, 2) else 2
        g, out = (
            channels_last(torch.zeros(1, 17, 2, 2)),
            channels_last(torch.empty(1, 17, size, size)),
        )
        g[:, :, 0, 0] = math.nan
        run(g, out, kernel=kernel, stride=stride, padding=padding)
        seen = torch.zeros(size, size, dtype=torch.bool)
        seen[:2, :2] = True
        assert torch.equal(out[0].isnan(), seen.expand(17, size, size))
        assert not out[0, :, ~seen].any()


@pytest.mark.parametrize("run", [average_pool_backward, average_pool_backward.reference])
def test_an_empty_batch(run):
    g, out = channels_last(torch.empty(0, 8, 2, 2)), channels_last(torch.empty(0, 8, 4, 4))
    run(g, out, kernel=(2, 2), stride=(2, 2))


def arguments(**changed):
    options = {
        "g": channels_last(torch.zeros(2, 9, 2, 3)),
        "out": channels_last(torch.ones(2, 9, 4, 6)),
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
        ({"g": torch.zeros(2, 9, 2, 3)}, "g must be dense"),
        ({"g": channels_last(torch.zeros(2, 9, 2, 3)).bfloat16()}, "g must .* dtype"),
        ({"out": torch.zeros(2, 9, 4, 6)}, "out must be dense"),
        ({"out": channels_last(torch.zeros(1, 9, 4, 6))}, "g must have out's batch"),
        ({"x_mask": torch.zeros(12, 2).byte()}, r"x_mask must be .* \(48, 2\)"),
        ({"other": torch.zeros(2, 9, 4, 6)}, "other must be dense"),
        ({"other": channels_last(torch.zeros(2, 8, 4, 6))}, "other must have out's shape"),
        ({"stride": (4, 2)}, "window 1 begins past the image of 4 positions"),
        ({"kernel": (2, 0)}, "must be positive"),
        ({"divisor": 0}, "divisor must not be 0"),
        ({"divisor": 2**31}, "divisor is too large"),
    ],
)
def test_bad_arguments_are_refused_and_named(changed, message):
    options = arguments(**changed)
    g, out = options.pop("g"), options.pop("out")
    with pytest.raises(RuntimeError, match=message):
        average_pool_backward(g, out, **options)
    assert out.eq(1).all() or "out" in changed


def test_a_divisor_of_0_is_refused_by_the_reference():
    options = arguments(divisor=0)
    with pytest.raises(ValueError, match="divisor must not be 0"):
        average_pool_backward.reference(options.pop("g"), options.pop("out"), **options)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype, torch_rng):
    options = arguments()
    g, out = (
        channels_last(torch.randn(options[name].shape, generator=torch_rng).to(dtype))
        for name in ("g", "out")
    )
    for other, x_mask in [(options["other"].to(dtype), options["x_mask"]), (None, None)]:
        arguments_of = (g, out, other, x_mask, 0.5, False, None, 2, 2, 2, 2, 0, 0)
        results = torch.library.opcheck(torch.ops.sign_ext.average_pool_backward, arguments_of)
        assert set(results.values()) == {"SUCCESS"}


@needs_native
def test_fake_tensors_stay_what_they_are():
    with FakeTensorMode():
        g, out = channels_last(torch.empty(2, 9, 2, 2)), channels_last(torch.empty(2, 9, 4, 4))
        average_pool_backward(g, out, kernel=(2, 2), stride=(2, 2))
        assert out.shape == (2, 9, 4, 4)
        with pytest.raises(RuntimeError, match="channels must agree"):
            average_pool_backward(g[:, :8], out, kernel=(2, 2), stride=(2, 2))
