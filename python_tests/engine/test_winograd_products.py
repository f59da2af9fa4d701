"""3×3 convolutions by Winograd's algorithm in a step: where they are used, and against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.compiler.ir.dense import Convolution
from sign_ext.engine.fused.products.winograd import WinogradConvolution, suits_winograd
from sign_ext.ops.activation import RELU, mask_shape, pack_bits
from sign_ext.ops.native import NATIVE


def convolution(channels: int, height: int, width: int) -> Convolution:
    generator = torch.Generator().manual_seed(channels + height)
    shape = (channels, height, width)
    return Convolution(
        inputs=(0,),
        output=1,
        in_shapes=(shape,),
        shape=shape,
        activation=RELU,
        weight=torch.randn(channels, channels, 3, 3, generator=generator) / channels,
        bias=torch.randn(channels, generator=generator),
        padding=(1, 1),
        padding_end=(1, 1),
    )


def laid_out(torch_rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch_rng).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("shape", "images", "suits"),
    [
        pytest.param((64, 8, 8), 1, True, id="a plane of many tiles"),
        pytest.param((128, 4, 4), 16, True, id="a small plane of many images"),
        pytest.param((128, 4, 4), 15, False, id="a small plane of few images"),
        pytest.param((64, 3, 5), 64, False, id="tiles mostly cut off"),
        pytest.param((256, 8, 8), 64, False, id="weights beyond the cache"),
    ],
)
def test_where_it_is_used(shape, images, suits):
    assert suits_winograd(convolution(*shape), images) == suits


@pytest.mark.skipif(not NATIVE.loaded, reason="the operator is native")
@pytest.mark.parametrize("sides", [(4, 4), (5, 4), (4, 7)], ids=str)
def test_small_planes_are_float64s(sides, torch_rng):
    op = convolution(32, *sides)
    dense = WinogradConvolution(op)
    x, g = laid_out(torch_rng, 16, 32, *sides), laid_out(torch_rng, 16, 32, *sides)
    other = laid_out(torch_rng, 16, 32, *sides)
    bits = torch.empty(mask_shape(x.shape), dtype=torch.uint8)
    got = dense.forward(x, None, bits)
    assert op.bias is not None
    wanted = F.conv2d(x.double(), op.weight.double(), op.bias.double(), padding=1).relu()
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(bits, pack_bits(got > 0))
    back = F.conv_transpose2d(g.double(), op.weight.double(), padding=1) + other.double()
    torch.testing.assert_close(dense.backward(g, other).double(), back, rtol=1e-5, atol=1e-5)
