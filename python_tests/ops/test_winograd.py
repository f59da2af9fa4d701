"""winograd on the CPU against PyTorch's convolution in float64, and its reference likewise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensors import channels_last, needs_native
from torch.nn import functional as F

from sign_ext.ops.activation import IDENTITY, RELU, RELU6, Piecewise
from sign_ext.ops.winograd import winograd, winograd_weight

ROUTES = [pytest.param(winograd, marks=needs_native), winograd.reference]


def direct(x, weight, out, bias, residual, activation, padding):
    """The convolution itself, in float64."""
    (top, left), (rows, columns) = padding, out.shape[2:]
    right, below = columns + 2 - left - x.shape[3], rows + 2 - top - x.shape[2]
    padded = F.pad(x.double(), (left, right, top, below))
    y = F.conv2d(padded, weight.double(), None if bias is None else bias.double())
    if residual is not None:
        y = y + residual.double()
    return activation.apply(y)


@pytest.mark.parametrize("route", ROUTES)
@given(data=st.data())
def test_equals_the_direct_convolution(route, data):
    draw = data.draw
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    n, height, width = (draw(st.integers(1, high)) for high in (3, 13, 13))
    channels, out_channels = (draw(st.sampled_from([16, 17, 24, 31, 32, 48, 70])) for _ in "io")
    padding = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    grown = [size + draw(st.integers(-2, 2)) for size in (height, width)]
    shape = (n, out_channels, *[max(size, 1) for size in grown])

    def normal(*size):
        return torch.randn(*size, generator=generator)

    x = channels_last(normal(n, channels, height, width))
    weight = normal(out_channels, channels, 3, 3) / (3 * channels**0.5)
    bias = normal(out_channels) if draw(st.booleans()) else None
    residual = channels_last(normal(*shape)) if draw(st.booleans()) else None
    activation = draw(
        st.sampled_from([IDENTITY, RELU, RELU6, Piecewise(-0.2, 0.3), Piecewise(slope=0.1)])
    )
    out = channels_last(torch.full(shape, float("nan")))
    route(
        x,
        winograd_weight(weight),
        out,
        bias=bias,
        residual=residual,
        activation=activation,
        padding=padding,
    )
    expected = direct(x, weight, out, bias, residual, activation, padding)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=2e-5)


def test_the_reference_is_exact_in_float64(torch_rng):
    x = torch.randn(2, 3, 7, 5, generator=torch_rng, dtype=torch.float64)
    weight = torch.randn(4, 3, 3, 3, generator=torch_rng, dtype=torch.float64)
    out = torch.empty(2, 4, 7, 5, dtype=torch.float64)
    winograd.reference(x, winograd_weight(weight), out)
    torch.testing.assert_close(out, F.conv2d(x, weight, padding=1), rtol=1e-12, atol=1e-12)


@needs_native
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bits_whatever_the_threads(threads, torch_rng):
    x = channels_last(torch.randn(5, 32, 11, 9, generator=torch_rng))
    weight = winograd_weight(torch.randn(40, 32, 3, 3, generator=torch_rng))
    outs = []
    before = torch.get_num_threads()
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            outs.append(channels_last(torch.empty(5, 40, 11, 9)))
            winograd(x, weight, outs[-1])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*outs)
    one = channels_last(torch.empty(1, 40, 11, 9))
    winograd(x[2:3], weight, one)
    assert torch.equal(one, outs[0][2:3])


@needs_native
def test_empty_batches():
    weight = winograd_weight(torch.rand(16, 16, 3, 3))
    empty = channels_last(torch.empty(0, 16, 4, 4))
    winograd(empty, weight, torch.empty_like(empty))


@needs_native
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.rand(2, 8, 5, 5)}, "at least 16 channels"),
        ({"x": torch.rand(2, 16, 5, 5)}, "x must be dense with its channels innermost"),
        ({"out": channels_last(torch.rand(3, 16, 5, 5))}, "out must have x's 2 images"),
        ({"weight": torch.rand(9, 16, 16)}, "weight must be 4096 contiguous float32"),
        ({"bias": torch.rand(17)}, "bias must be 16 contiguous float32"),
        ({"residual": channels_last(torch.rand(2, 16, 4, 5))}, "residual must have out's shape"),
        ({"padding": (-1, 0)}, "padding must not be negative"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    options = {
        "x": channels_last(torch.rand(2, 16, 5, 5)),
        "weight": winograd_weight(torch.rand(16, 16, 3, 3)),
        "out": channels_last(torch.empty(2, 16, 5, 5)),
        **change,
    }
    x, weight, out = (options.pop(name) for name in ("x", "weight", "out"))
    if "at least" in message:
        x = channels_last(x)
    with pytest.raises(RuntimeError, match=message):
        winograd(x, weight, out, **options)


@needs_native
def test_outputs_must_not_share_memory(torch_rng):
    x = channels_last(torch.rand(2, 16, 5, 5, generator=torch_rng))
    weight = winograd_weight(torch.rand(16, 16, 3, 3))
    with pytest.raises(RuntimeError, match="out shares memory with x"):
        winograd(x, weight, x)
    out = torch.empty_like(x)
    with pytest.raises(RuntimeError, match="out shares memory with residual"):
        winograd(x, weight, out, residual=out)


@needs_native
def test_opcheck():
    x = channels_last(torch.rand(2, 16, 5, 5))
    weight = winograd_weight(torch.rand(16, 16, 3, 3))
    args = (x, weight, torch.empty_like(x), None, torch.rand_like(x), 0.0, 6.0, 0.0, 1, 1)
    torch.library.opcheck(torch.ops.sign_ext.winograd.default, args)
