"""depthwise and depthwise_backward on a GPU: every geometry and dtype, a graph, opcheck."""

from __future__ import annotations

import pytest
import torch
from activate_checks import ACTIVATIONS
from depthwise_checks import CONVOLUTIONS, check_depthwise, check_depthwise_backward, same
from tensors import DTYPES, channels_last, normal, random_mask

from sign_ext.ops.depthwise import depthwise, depthwise_backward

VARIANTS = [(None, "none", None), (0.0, "none", 0.0), (0.25, "apart", None), (0.0, "out", 0.25)]


@pytest.mark.gpu
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 8, 22, 64])
def test_cuda_forward(convolution, dtype, channels, torch_rng):
    for number, activation in enumerate(ACTIVATIONS):
        check_depthwise(
            torch_rng,
            (2, channels, 13, 18),
            convolution,
            dtype,
            activation=activation,
            bias=number % 2 == 0,
            device="cuda",
        )


@pytest.mark.gpu
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 8, 22, 64])
def test_cuda_backward(convolution, dtype, channels, torch_rng):
    for slope, other, x_slope in VARIANTS:
        check_depthwise_backward(
            torch_rng,
            (2, channels, 13, 18),
            convolution,
            dtype,
            slope=slope,
            other=other,
            x_slope=x_slope,
            device="cuda",
        )


@pytest.mark.gpu
@pytest.mark.parametrize("size", [1, 2, 4])
def test_cuda_small_images_of_many_channels(size, torch_rng):
    for convolution in (same(3), same(3, 2)):
        shape = (9, 960, size, size)
        check_depthwise(torch_rng, shape, convolution, torch.float32, device="cuda")
        check_depthwise_backward(torch_rng, shape, convolution, torch.float32, device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_many_blocks(dtype, torch_rng):
    for convolution in (same(3), same(5, 2)):
        shape = (33, 72, 57, 55)
        check_depthwise(torch_rng, shape, convolution, dtype, device="cuda")
        check_depthwise_backward(torch_rng, shape, convolution, dtype, other="out", device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("offset", [1, 2, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_tensors_behind_a_boundary(offset, dtype, torch_rng):
    shape = (2, 16, 6, 7)
    x = normal(torch_rng, shape, dtype, "cuda")
    memory = torch.empty(offset + x.numel(), dtype=dtype, device="cuda")
    moved = memory[offset:].view(2, 6, 7, 16).permute(0, 3, 1, 2).copy_(x)
    weight = torch.randn(3, 3, 16, generator=torch_rng).cuda()
    out, expected = (channels_last(torch.empty_like(x)) for _ in range(2))
    for run in (depthwise, depthwise_backward):
        run(x, weight, expected, padding=(1, 1))
        run(moved, weight, out, padding=(1, 1))
        torch.testing.assert_close(out, expected, rtol=2**-7, atol=1e-5)


@pytest.mark.gpu
def test_cuda_in_a_graph_gives_the_same_bits(torch_rng):
    g = normal(torch_rng, (3, 24, 13, 11), torch.float32, "cuda")
    mask = random_mask(torch_rng, (3, 24, 13, 11), "cuda")
    weight = torch.randn(3, 3, 24, generator=torch_rng).cuda()
    out, again = (torch.zeros_like(g) for _ in range(2))
    depthwise_backward(g, weight, out, mask=mask, padding=(1, 1))
    assert out.any()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        depthwise_backward(g, weight, again, mask=mask, padding=(1, 1))
    for _ in range(3):
        again.fill_(7.0)
        graph.replay()
        assert torch.equal(again, out)


@pytest.mark.gpu
def test_cuda_opcheck(torch_rng):
    x, out, other = (normal(torch_rng, (2, 9, 4, 6), torch.bfloat16, "cuda") for _ in range(3))
    mask = random_mask(torch_rng, (2, 9, 4, 6), "cuda")
    weight, bias = torch.ones(3, 3, 9, device="cuda"), torch.ones(9, device="cuda")
    numbers = (1, 1, 1, 1, 1, 1)
    forward = (x, weight, out, bias, mask, 0.0, 6.0, 0.0, *numbers)
    backward = (x, weight, out, mask, 0.5, other, mask, 0.0, *numbers)
    operators = torch.ops.sign_ext
    for operator, arguments in [
        (operators.depthwise, forward),
        (operators.depthwise_backward, backward),
    ]:
        results = torch.library.opcheck(operator, arguments)
        assert set(results.values()) == {"SUCCESS"}
