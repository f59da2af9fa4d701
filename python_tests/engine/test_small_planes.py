"""Convolutions of at most four pixels as one matrix product for the image, against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.compiler.ir.dense import Convolution
from sign_ext.engine.fused.products import onednn
from sign_ext.engine.fused.products.small_plane import SmallPlaneConvolution, suits_small_plane
from sign_ext.ops.activation import IDENTITY, RELU, Piecewise, mask_shape, pack_bits

pytestmark = pytest.mark.skipif(not onednn.is_available(), reason="PyTorch without oneDNN")

# (channels, outputs), (height, width), kernel, stride, dilation, padding at the start, at the end
CASES = [
    ((3, 5), (2, 2), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((17, 24), (1, 1), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((8, 7), (2, 2), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1)),
    ((5, 6), (2, 2), (3, 3), (2, 2), (1, 1), (0, 0), (1, 1)),
    ((4, 9), (1, 4), (3, 3), (1, 2), (1, 1), (1, 1), (1, 2)),
    ((6, 3), (3, 1), (5, 3), (1, 1), (1, 1), (2, 1), (2, 1)),
    ((5, 4), (2, 2), (3, 3), (1, 1), (2, 2), (2, 2), (2, 2)),
    ((7, 2), (1, 1), (1, 3), (1, 1), (1, 1), (0, 2), (0, 1)),
]


def normal(*shape: int) -> Tensor:
    """Seeded by their shape."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator)


def laid_out(*shape: int) -> Tensor:
    """Channels innermost, also where a side of one pixel leaves the order of axes open."""
    return torch.empty(shape, memory_format=torch.channels_last).copy_(normal(*shape))


def convolution(case: tuple, activation: Piecewise = RELU, **options) -> Convolution:
    (channels, out), sides, kernel, stride, dilation, padding, end = case
    axes = zip(sides, kernel, stride, dilation, padding, end, strict=True)
    plane = [(n + p + e - d * (k - 1) - 1) // s + 1 for n, k, s, d, p, e in axes]
    shape = (out, *plane)
    residual = options.pop("residual", False)
    return Convolution(
        inputs=(0, 1) if residual else (0,),
        output=2,
        in_shapes=((channels, *sides), *([shape] if residual else [])),
        shape=shape,
        activation=activation,
        weight=normal(out, channels, *kernel),
        stride=stride,
        padding=padding,
        padding_end=end,
        dilation=dilation,
        **options,
    )


def expected(op: Convolution, x: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution's value by PyTorch's own, of images padded first."""
    (top, left), (bottom, right) = op.padding, op.padding_end
    padded = F.pad(x, (left, right, top, bottom))
    bias = None if bias is None else bias.double()
    return F.conv2d(padded, op.weight.double(), bias, op.stride, 0, op.dilation)


@pytest.mark.parametrize("activation", [IDENTITY, RELU, Piecewise(slope=0.1)])
@pytest.mark.parametrize(("with_bias", "with_residual"), [(True, False), (False, True)])
@pytest.mark.parametrize("case", CASES)
def test_small_planes_agree_with_float64(case, with_bias, with_residual, activation):
    bias = normal(case[0][1]) if with_bias else None
    op = convolution(case, activation, bias=bias, residual=with_residual)
    images, shape = 3, op.in_shapes[0]
    made = onednn.cpu_dense(op, images)
    assert type(made) is SmallPlaneConvolution
    x = laid_out(images, *shape)
    residual = laid_out(images, *op.shape) if with_residual else None
    mask = torch.empty(mask_shape((images, *op.shape)), dtype=torch.uint8)
    bits = None if activation.is_identity else mask
    y = made.forward(x, residual, bits)
    assert y.is_contiguous(memory_format=torch.channels_last)
    leaf = x.double().requires_grad_()
    v = expected(op, leaf, bias)
    with torch.no_grad():
        total = v if residual is None else v + residual.double()
        torch.testing.assert_close(y.double(), activation.apply(total), rtol=1e-5, atol=1e-5)
    if bits is not None:
        assert torch.equal(bits, pack_bits(activation.passes(y)))

    g, other = laid_out(images, *op.shape), laid_out(images, *shape) * 2
    before = other.clone()
    (wanted,) = torch.autograd.grad(v, leaf, g.double())
    torch.testing.assert_close(made.backward(g, None).double(), wanted, rtol=1e-5, atol=1e-5)
    with_other = made.backward(g, other).double()
    torch.testing.assert_close(with_other, wanted + other.double(), rtol=1e-5, atol=1e-5)
    assert torch.equal(other, before)  # another branch may still read it


def test_the_rule_takes_only_what_halves_the_products():
    square = ((16, 16), (2, 2), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    assert suits_small_plane(convolution(square))
    channels, _, *rest = square
    assert not suits_small_plane(convolution((channels, (3, 3), *rest)))
    # A shortcut's 1×1 kernel with strides reads one pixel of four.
    shortcut = (channels, (2, 2), (1, 1), (2, 2), (1, 1), (0, 0), (0, 0))
    assert not suits_small_plane(convolution(shortcut))
    # More padding than the kernel needs, so that the result is larger.
    assert not suits_small_plane(convolution((*square[:5], (2, 2), (2, 2))))
    by_library = onednn.cpu_dense(convolution(square), 3, by_library=True)
    assert not isinstance(by_library, SmallPlaneConvolution)
