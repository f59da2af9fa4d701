"""Matrix products on a CPU for linear operations, 1×1 convolutions and groups, against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.compiler.ir.dense import Convolution, Linear
from sign_ext.engine.fused.products import matmul, onednn
from sign_ext.engine.fused.products.matmul import GroupedMatmul, MatmulLinear
from sign_ext.ops.activation import IDENTITY, RELU, RELU6, Piecewise, mask_shape, pack_bits

pytestmark = pytest.mark.skipif(not onednn.is_available(), reason="PyTorch without oneDNN")

# (images, input channels, output channels, height, width, groups)
CASES = [(1, 3, 5, 1, 1, 1), (2, 7, 9, 3, 5, 1), (3, 16, 24, 2, 7, 1), (2, 12, 18, 5, 3, 3)]
CASES += [(1, 8, 4, 1, 3, 2)]


def normal(*shape: int) -> Tensor:
    """Seeded by their shape."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator)


def laid_out(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)


def convolution(case: tuple[int, ...], activation: Piecewise, **options: Any) -> Convolution:
    _, channels, out, height, width, groups = case
    shape = (out, height, width)
    residual = options.pop("residual", False)
    return Convolution(
        inputs=(0, 1) if residual else (0,),
        output=2,
        in_shapes=((channels, height, width), *([shape] if residual else [])),
        shape=shape,
        activation=activation,
        weight=normal(out, channels // groups, 1, 1),
        groups=groups,
        **options,
    )


def assert_near(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", [IDENTITY, RELU, RELU6, Piecewise(slope=0.1)])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_convolutions_agree_with_float64(case, with_residual, with_bias, activation):
    images, channels, out, height, width, groups = case
    bias = normal(out) if with_bias else None
    op = convolution(case, activation, bias=bias, residual=with_residual)
    made = onednn.cpu_dense(op, images)
    assert type(made) is (MatmulLinear if groups == 1 else GroupedMatmul)
    x = laid_out(normal(images, channels, height, width))
    residual = laid_out(normal(images, out, height, width)) if with_residual else None
    mask = torch.empty(mask_shape((images, *op.shape)), dtype=torch.uint8)
    bits = None if activation.is_identity else mask
    y = made.forward(x, residual, bits)
    assert y.is_contiguous(memory_format=torch.channels_last)
    weight = op.weight.double()
    v = F.conv2d(x.double(), weight, None if bias is None else bias.double(), groups=groups)
    v = v if residual is None else v + residual.double()
    assert_near(y, activation.apply(v))
    if bits is not None:
        assert torch.equal(bits, pack_bits(activation.passes(y)))

    g, other = (
        laid_out(normal(images, *op.shape)),
        laid_out(normal(images, channels, height, width)),
    )
    before = other.clone()
    wanted = F.conv_transpose2d(g.double(), weight, groups=groups)
    assert_near(made.backward(g, None), wanted)
    assert_near(made.backward(g, other), wanted + other.double())
    assert torch.equal(other, before)  # another branch may still read it


@pytest.mark.parametrize("activation", [IDENTITY, RELU])
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("shape", [(11,), (5, 3, 2)])
def test_linear_operations_agree_with_float64(shape, images, activation):
    weight, bias = normal(7, torch.Size(shape).numel()), normal(7)
    op = Linear(
        inputs=(0,),
        output=1,
        in_shapes=(shape,),
        shape=(7,),
        activation=activation,
        weight=weight,
        bias=bias,
    )
    made = onednn.cpu_dense(op, images)
    x = normal(images, *shape)
    x = laid_out(x) if x.dim() == 4 else x
    mask = torch.empty(mask_shape((images, 7)), dtype=torch.uint8)
    y = made.forward(x, None, None if activation.is_identity else mask)
    assert_near(
        y, activation.apply(F.linear(x.double().flatten(1), weight.double(), bias.double()))
    )
    g = normal(images, 7)
    wanted = (g.double() @ weight.double()).view(images, *shape)
    assert_near(made.backward(g, None), wanted)
    assert_near(made.backward(g, x), wanted + x.double())


def test_many_biased_values_are_left_to_onednn_and_agree(monkeypatch):
    monkeypatch.setattr(matmul, "MOST_BIASED", 100)
    case = (2, 7, 9, 3, 5, 1)
    op = convolution(case, IDENTITY, bias=normal(9))
    made = MatmulLinear(op, 2)
    assert made.by_onednn
    for images in (2, 3):  # the weights are laid out for 2
        x = laid_out(normal(images, 7, 3, 5))
        y = made.forward(x, None, None)
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert_near(y, F.conv2d(x.double(), op.weight.double(), op.bias.double()))
    # Neither where something follows, which one pass does with the bias.
    assert not MatmulLinear(convolution(case, RELU, bias=normal(9)), 2).by_onednn
    with_residual = convolution(case, IDENTITY, bias=normal(9), residual=True)
    assert not MatmulLinear(with_residual, 2).by_onednn


@pytest.mark.parametrize("activation", [IDENTITY, RELU, RELU6], ids=["none", "relu", "relu6"])
@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
def test_large_products_are_onednns_and_agree(monkeypatch, activation, has_residual, has_bias):
    monkeypatch.setattr(matmul, "LEAST_LARGE", 2 * 15 * 7 * 9)
    case = (2, 7, 9, 3, 5, 1)
    bias = normal(9) if has_bias else None
    op = convolution(case, activation, bias=bias, residual=has_residual)
    assert not MatmulLinear(op, 1).is_large
    made = MatmulLinear(op, 2)
    assert made.is_large
    for images in (2, 3):  # the weights are laid out for 2
        x, residual = laid_out(normal(images, 7, 3, 5)), laid_out(normal(images, 9, 3, 5))
        before = residual.clone()
        mask = torch.zeros(mask_shape((images, 9, 3, 5)), dtype=torch.uint8)
        is_plain = activation.is_identity
        y = made.forward(x, residual if has_residual else None, None if is_plain else mask)
        assert y.is_contiguous(memory_format=torch.channels_last)
        wanted = F.conv2d(x.double(), op.weight.double(), None if bias is None else bias.double())
        wanted = wanted + residual.double() if has_residual else wanted
        assert_near(y, activation.apply(wanted))
        assert torch.equal(residual, before)
        g, other = laid_out(normal(images, 9, 3, 5)), laid_out(normal(images, 7, 3, 5))
        wanted = F.conv_transpose2d(g.double(), op.weight.double())
        assert_near(made.backward(g, None), wanted)
        before = other.clone()
        assert_near(made.backward(g, other), wanted + before.double())
        assert torch.equal(other, before)


def test_many_weights_are_large_for_few_rows(monkeypatch):
    monkeypatch.setattr(matmul, "LEAST_WEIGHTS", 63)
    assert MatmulLinear(convolution((1, 7, 9, 1, 1, 1), RELU), 1).is_large
    assert not MatmulLinear(convolution((1, 7, 8, 1, 1, 1), RELU), 1).is_large
