"""strided_convolution on the CPU against PyTorch in float64, and its reference likewise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensors import channels_last, needs_native
from torch.nn import functional as F

from sign_ext.compiler.ir.dense import Convolution
from sign_ext.engine.fused.products.strided import StridedConvolution, suits_strided
from sign_ext.ops.activation import IDENTITY, RELU, RELU6, Piecewise
from sign_ext.ops.strided_convolution import strided_convolution

ROUTES = [pytest.param(strided_convolution, marks=needs_native), strided_convolution.reference]
ACTIVATIONS = [IDENTITY, RELU, RELU6, Piecewise(-0.2, 0.3), Piecewise(slope=0.1)]


def normal(generator, *size):
    return torch.randn(*size, generator=generator, dtype=torch.float64)


def drawn(draw):
    """A convolution in float64: x, weight (C_out, C_in, KH, KW), y, stride, padding."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    n = draw(st.integers(1, 3))
    channels, out_channels = (
        draw(st.sampled_from([1, 3, 8, 16, 17, 24, 32, 40, 48, 64, 70, 96])) for _ in "io"
    )
    kernel, stride, padding, end, size = (
        [draw(st.integers(low, high)) for _ in "hw"]
        for low, high in ((1, 5), (1, 3), (0, 3), (0, 3), (1, 40))
    )
    size = [max(s, k) for s, k in zip(size, kernel, strict=True)]
    x = normal(generator, n, channels, *size)
    weight = normal(generator, out_channels, channels, *kernel)
    weight /= (channels * kernel[0] * kernel[1]) ** 0.5

    def convolve(x):
        padded = F.pad(x, (padding[1], end[1], padding[0], end[0]))
        return F.conv2d(padded, weight, stride=stride)

    return generator, x, weight, convolve, tuple(stride), tuple(padding)


@pytest.mark.parametrize("route", ROUTES)
@given(data=st.data())
def test_equals_the_convolution(route, data):
    generator, x, weight, convolve, stride, padding = drawn(data.draw)
    expected = convolve(x)
    bias = normal(generator, len(weight)) if data.draw(st.booleans()) else None
    residual = normal(generator, *expected.shape) if data.draw(st.booleans()) else None
    activation = data.draw(st.sampled_from(ACTIVATIONS))
    if bias is not None:
        expected = expected + bias[:, None, None]
    if residual is not None:
        expected = expected + residual
    out = channels_last(torch.full(expected.shape, float("nan")))
    route(
        channels_last(x.float()),
        weight.permute(2, 3, 1, 0).float().contiguous(),
        out,
        bias=None if bias is None else bias.float(),
        residual=None if residual is None else channels_last(residual.float()),
        activation=activation,
        stride=stride,
        padding=padding,
    )
    torch.testing.assert_close(out.double(), activation.apply(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("route", ROUTES)
@given(data=st.data())
def test_transposed_it_is_the_gradient(route, data):
    generator, x, weight, convolve, stride, padding = drawn(data.draw)
    y = convolve(x.requires_grad_())
    g = normal(generator, *y.shape)
    (expected,) = torch.autograd.grad(y, x, g)
    other = normal(generator, *x.shape) if data.draw(st.booleans()) else None
    if other is not None:
        expected = expected + other
    out = channels_last(torch.full(x.shape, float("nan")))
    route(
        channels_last(g.float()),
        weight.permute(2, 3, 0, 1).float().contiguous(),
        out,
        residual=None if other is None else channels_last(other.float()),
        transposed=True,
        stride=stride,
        padding=padding,
    )
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=3e-5)


def test_the_reference_is_exact_in_float64(torch_rng):
    x = normal(torch_rng, 2, 3, 9, 7).requires_grad_()
    weight = normal(torch_rng, 4, 3, 3, 3)
    expected = F.conv2d(x, weight, stride=2, padding=1)
    out = torch.empty_like(expected)
    strided_convolution.reference(
        x.detach(), weight.permute(2, 3, 1, 0), out, stride=(2, 2), padding=(1, 1)
    )
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    g = normal(torch_rng, *out.shape)
    back = torch.empty(x.shape, dtype=torch.float64)
    strided_convolution.reference(
        g, weight.permute(2, 3, 0, 1), back, transposed=True, padding=(1, 1)
    )
    (expected,) = torch.autograd.grad(expected, x, g)
    torch.testing.assert_close(back, expected, rtol=1e-12, atol=1e-12)


def convolution(weight, size, **options):
    """A convolution of stride 2 as the compiler writes it, for images of a size."""
    pads = [options.get(name, (0, 0)) for name in ("padding", "padding_end")]
    shape = tuple(
        (s + p + e - k) // 2 + 1 for s, p, e, k in zip(size, *pads, weight.shape[2:], strict=True)
    )
    return Convolution(
        inputs=(0,),
        output=1,
        in_shapes=((weight.shape[1], *size),),
        shape=(len(weight), *shape),
        weight=weight,
        stride=(2, 2),
        **options,
    )


@pytest.mark.parametrize("padding_end", [(1, 1), (0, 0), (2, 1)])
def test_its_products_are_those_of_the_operation(padding_end, torch_rng):
    weight = torch.randn(24, 5, 3, 3, generator=torch_rng) / 7
    op = convolution(
        weight,
        (13, 10),
        bias=torch.randn(24, generator=torch_rng),
        padding=(1, 0),
        padding_end=padding_end,
        activation=RELU6,
    )
    assert suits_strided(op)
    products = StridedConvolution(op)
    x = torch.randn(2, 5, 13, 10, generator=torch_rng)
    mask = torch.empty(2 * op.shape[1] * op.shape[2], 3, dtype=torch.uint8)
    y = products.forward(channels_last(x), None, mask)
    x = x.double().requires_grad_()
    padded = F.pad(x, (0, padding_end[1], 1, padding_end[0]))
    linear = F.conv2d(padded, weight.double(), op.bias.double(), stride=2)
    torch.testing.assert_close(y.double(), RELU6.apply(linear), rtol=0, atol=1e-5)
    bits = mask.reshape(*y.permute(0, 2, 3, 1).shape[:3], 3)
    passed = torch.stack([bits[..., c // 8] >> c % 8 & 1 for c in range(24)], 1).bool()
    assert torch.equal(passed, (y > 0) & (y < 6))
    g = torch.randn(y.shape, generator=torch_rng)
    (expected,) = torch.autograd.grad(linear, x, g.double())
    got = products.backward(channels_last(g), None)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-5)


def test_the_rule():
    assert not suits_strided(convolution(torch.empty(512, 512, 3, 3), (6, 6)))
    assert not suits_strided(convolution(torch.empty(8, 16, 3, 3), (6, 6)))
    assert suits_strided(convolution(torch.empty(32, 32, 1, 1), (6, 6)))
    assert not suits_strided(convolution(torch.empty(32, 16, 3, 3), (6, 6), dilation=(2, 2)))


@needs_native
@pytest.mark.parametrize("transposed", [False, True])
def test_the_same_bits_whatever_the_threads(transposed, torch_rng):
    x = channels_last(torch.randn(5, 32, 11, 9, generator=torch_rng))
    weight = torch.randn(3, 3, 32, 40, generator=torch_rng)
    size = (21, 18) if transposed else (6, 5)
    options = {"transposed": transposed, "padding": (1, 1)}
    outs = []
    before = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            outs.append(channels_last(torch.empty(5, 40, *size)))
            strided_convolution(x, weight, outs[-1], **options)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*outs)
    one = channels_last(torch.empty(1, 40, *size))
    strided_convolution(x[2:3], weight, one, **options)
    assert torch.equal(one, outs[0][2:3])


@needs_native
def test_empty_batches():
    empty = channels_last(torch.empty(0, 16, 4, 4))
    strided_convolution(empty, torch.rand(3, 3, 16, 16), channels_last(torch.empty(0, 16, 2, 2)))


@needs_native
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.rand(2, 16, 5, 5)}, "x must be dense with its channels innermost"),
        ({"out": channels_last(torch.rand(3, 16, 3, 3))}, "out must have x's 2 images"),
        ({"weight": torch.rand(3, 3, 8, 16)}, "with x's 16 and out's 16 channels"),
        ({"weight": torch.rand(9, 16, 16)}, r"weight must be \(KH, KW, C_in, C_out\)"),
        ({"bias": torch.rand(17)}, "bias must be 16 contiguous float32"),
        ({"residual": channels_last(torch.rand(2, 16, 4, 3))}, "residual must have out's shape"),
        ({"padding": (-1, 0)}, "padding must not be negative"),
        ({"stride": (2, 0)}, "strides must be positive"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    options = {
        "x": channels_last(torch.rand(2, 16, 5, 5)),
        "weight": torch.rand(3, 3, 16, 16),
        "out": channels_last(torch.empty(2, 16, 3, 3)),
        **change,
    }
    x, weight, out = (options.pop(name) for name in ("x", "weight", "out"))
    with pytest.raises(RuntimeError, match=message):
        strided_convolution(x, weight, out, **options)


@needs_native
def test_outputs_must_not_share_memory():
    x = channels_last(torch.rand(2, 16, 5, 5))
    with pytest.raises(RuntimeError, match="out shares memory with x"):
        strided_convolution(x, torch.rand(3, 3, 16, 16), x)
    out = channels_last(torch.empty(2, 16, 3, 3))
    with pytest.raises(RuntimeError, match="out shares memory with residual"):
        strided_convolution(x, torch.rand(3, 3, 16, 16), out, residual=out)


@needs_native
def test_opcheck():
    x = channels_last(torch.rand(2, 16, 5, 5))
    out = channels_last(torch.empty(2, 16, 3, 3))
    args = (x, torch.rand(3, 3, 16, 16), out, None, torch.rand_like(out), 0.0, 6.0, 0.0, False)
    torch.library.opcheck(torch.ops.sign_ext.strided_convolution.default, (*args, 2, 2, 1, 1))


@pytest.mark.parametrize("route", ROUTES)
def test_a_window_that_sees_padding_alone(route):
    x = channels_last(torch.full((1, 3, 1, 1), 2.0))
    out = channels_last(torch.full((1, 16, 1, 1), float("nan")))
    route(x, torch.ones(1, 1, 3, 16), out, stride=(3, 1), padding=(2, 0))
    assert not out.any()
