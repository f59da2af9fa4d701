"""max_pool_backward against autograd of torch's own pooling, on every route, dtype and window."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from max_pool_backward_checks import check_max_pool_backward
from pool_windows import DTYPES, WINDOWS, innermost, shapes, windows
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from sign_ext.ops import native
from sign_ext.ops.activation import RELU, RELU6, Piecewise, mask_shape
from sign_ext.ops.max_pool import index_shape, max_pool, max_pool_backward

needs_native = pytest.mark.skipif(
    not native.NATIVE.loaded, reason=f"no extension: {native.NATIVE.why}"
)
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
def test_any_size_window_and_combination(shape, window, dtype, slope, other, x_slope, numbers):
    assume(window.fits(*shape[2:]))
    generator = torch.Generator().manual_seed(numbers)
    check_max_pool_backward(
        generator, shape, window, dtype, slope=slope, other=other, x_slope=x_slope
    )


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("run", [max_pool_backward, max_pool_backward.reference])
def test_windows_of_networks(window, dtype, run, torch_rng):
    for channels in (16, 22, 64):
        for other, x_slope in [("none", None), ("apart", 0.0), ("out", 0.5)]:
            shape = (2, channels, 13, 18)
            check_max_pool_backward(
                torch_rng, shape, window, dtype, other=other, x_slope=x_slope, run=run
            )


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_rows_than_one_thread_is_given(dtype, torch_rng):
    for window in WINDOWS[:6]:
        check_max_pool_backward(torch_rng, (5, 33, 40, 38), window, dtype, other="out")


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(
    ("activation", "module"),
    [(RELU, F.relu), (RELU6, F.relu6), (Piecewise(slope=0.1), lambda v: F.leaky_relu(v, 0.1))],
)
def test_a_pooling_and_its_backward_are_autograds(window, activation, module, torch_rng):
    x = innermost(torch.randn(2, 11, 12, 17, generator=torch_rng) * 4)
    bias = torch.randn(11, generator=torch_rng)
    leaf = x.double().requires_grad_()
    expected = module(window.max_pool(leaf)[0] + bias.double()[:, None, None])
    g = innermost(torch.randn(expected.shape, generator=torch_rng))
    (cotangent,) = torch.autograd.grad(expected, leaf, g.double())

    y = innermost(torch.empty(expected.shape))
    index = torch.empty(index_shape(y.shape, window.kernel), dtype=torch.uint8)
    mask = torch.empty(mask_shape(y.shape), dtype=torch.uint8)
    max_pool(x, y, index, **window.options, bias=bias, activation=activation, mask=mask)
    out = torch.empty_like(x)
    max_pool_backward(g, index, out, **window.options, mask=mask, slope=activation.slope)
    torch.testing.assert_close(out.double(), cotangent, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("run", [max_pool_backward, max_pool_backward.reference])
def test_an_empty_batch(run):
    g, index = innermost(torch.empty(0, 8, 2, 2)), torch.empty(0, 1, 2, dtype=torch.uint8)
    out = innermost(torch.empty(0, 8, 4, 4))
    run(g, index, out, kernel=(2, 2), stride=(2, 2))


def arguments(**changed):
    given = {
        "g": innermost(torch.zeros(2, 9, 2, 3)),
        "index": torch.zeros(12, 2, 2, dtype=torch.uint8),
        "out": innermost(torch.ones(2, 9, 4, 6)),
        "mask": torch.zeros(12, 2, dtype=torch.uint8),
        "other": innermost(torch.zeros(2, 9, 4, 6)),
        "x_mask": torch.zeros(48, 2, dtype=torch.uint8),
        "kernel": (2, 2),
        "stride": (2, 2),
    }
    return given | changed


@needs_native
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"g": torch.zeros(2, 9, 2, 3)}, "g must be dense with its channels innermost"),
        ({"g": innermost(torch.zeros(2, 9, 2, 3)).bfloat16()}, "g must have out's .* dtype"),
        ({"out": torch.zeros(2, 9, 4, 6)}, "out must be dense"),
        ({"out": innermost(torch.zeros(2, 8, 4, 6))}, "g must have out's batch size, channels"),
        ({"index": torch.zeros(12, 2, 4, dtype=torch.uint8)}, r"index .* \(12, 2, 2\)"),
        ({"mask": torch.zeros(48, 2, dtype=torch.uint8)}, r"mask must be .* \(12, 2\)"),
        ({"x_mask": torch.zeros(12, 2, dtype=torch.uint8)}, r"x_mask must be .* \(48, 2\)"),
        ({"other": innermost(torch.zeros(2, 9, 4, 5))}, "other must have out's shape"),
        ({"other": torch.zeros(2, 9, 4, 6)}, "other must be dense"),
        ({"other": innermost(torch.zeros(2, 9, 4, 6)).bfloat16()}, "other must have out's dtype"),
        ({"stride": (4, 2)}, "window 1 begins behind the image of 4 positions"),
        ({"kernel": (17, 17), "padding": (8, 8)}, "more than 256 positions"),
    ],
)
def test_bad_arguments_are_refused_and_named(changed, words):
    given = arguments(**changed)
    g, index, out = given.pop("g"), given.pop("index"), given.pop("out")
    with pytest.raises(RuntimeError, match=words):
        max_pool_backward(g, index, out, **given)
    assert not given["other"].any()


@needs_native
def test_shared_memory_is_refused():
    whole = torch.zeros(3, 4, 6, 9).permute(0, 3, 1, 2)
    given = arguments(out=whole[:2], other=whole[1:])
    g, index, out = given.pop("g"), given.pop("index"), given.pop("out")
    with pytest.raises(RuntimeError, match="out shares memory with other"):
        max_pool_backward(g, index, out, **given)
    g = whole.as_strided((2, 9, 2, 3), (54, 1, 27, 9), 100)
    with pytest.raises(RuntimeError, match="g shares memory with out"):
        max_pool_backward(g, index, out, kernel=(2, 2), stride=(2, 2))


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype, torch_rng):
    given = arguments()
    numbers = (2, 2, 2, 2, 0, 0, 1, 1)
    g, out = (
        innermost(torch.randn(given[name].shape, generator=torch_rng).to(dtype))
        for name in ("g", "out")
    )
    for mask, other, x_mask in [
        (given["mask"], given["other"].to(dtype), given["x_mask"]),
        (None, None, None),
    ]:
        arguments_of = (g, given["index"], out, mask, 0.5, other, x_mask, 0.0, *numbers)
        results = torch.library.opcheck(torch.ops.sign_ext.max_pool_backward, arguments_of)
        assert set(results.values()) == {"SUCCESS"}


@needs_native
def test_fake_tensors_stay_what_they_are():
    with FakeTensorMode():
        g, out = innermost(torch.empty(2, 9, 2, 2)), innermost(torch.empty(2, 9, 4, 4))
        index = torch.empty(8, 2, 2, dtype=torch.uint8)
        max_pool_backward(g, index, out, kernel=(2, 2), stride=(2, 2))
        assert out.shape == (2, 9, 4, 4)
        with pytest.raises(RuntimeError, match="channels must agree"):
            max_pool_backward(g[:, :8], index, out, kernel=(2, 2), stride=(2, 2))
