"""average_pool_backward on a GPU: every window and dtype, global pooling, a graph, opcheck."""

from __future__ import annotations

import pytest
import torch
from average_pool_backward_checks import check_average_pool_backward
from pool_windows import WINDOWS, Window
from tensors import DTYPES, channels_last, normal, random_mask

from sign_ext.ops.average_pool_backward import average_pool_backward

UNDILATED = [window for window in WINDOWS if window.dilation == (1, 1)]


@pytest.mark.gpu
@pytest.mark.parametrize("window", UNDILATED)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 8, 22, 64])
def test_cuda_matches_autograd(window, dtype, channels, torch_rng):
    for include, divisor, other, x_slope in [
        (True, None, "none", None),
        (False, None, "apart", 0.0),
        (False, 7, "out", 0.25),
    ]:
        check_average_pool_backward(
            torch_rng,
            (2, channels, 13, 18),
            window,
            dtype,
            count_include_pad=include,
            divisor=divisor,
            other=other,
            x_slope=x_slope,
            device="cuda",
        )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [3, 2048])
def test_cuda_global_pooling(dtype, channels, torch_rng):
    for height, width in [(8, 8), (5, 7), (1, 1)]:
        window = Window((height, width), (height, width))
        shape = (5, channels, height, width)
        check_average_pool_backward(torch_rng, shape, window, dtype, x_slope=0.0, device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_many_blocks(dtype, torch_rng):
    for window in UNDILATED[:6]:
        check_average_pool_backward(
            torch_rng, (33, 72, 57, 55), window, dtype, count_include_pad=False, device="cuda"
        )


@pytest.mark.gpu
def test_cuda_in_a_graph(torch_rng):
    g = normal(torch_rng, (3, 24, 6, 5), torch.float32, "cuda")
    out, again = (channels_last(torch.zeros(3, 24, 6, 5, device="cuda")) for _ in range(2))
    options = {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1), "count_include_pad": False}
    average_pool_backward(g, out, **options)
    assert out.any()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        average_pool_backward(g, again, **options)
    graph.replay()
    assert torch.equal(again, out)


@pytest.mark.gpu
def test_cuda_opcheck(torch_rng):
    g = normal(torch_rng, (2, 9, 2, 3), torch.bfloat16, "cuda")
    out, other = (normal(torch_rng, (2, 9, 4, 6), torch.bfloat16, "cuda") for _ in range(2))
    x_mask = random_mask(torch_rng, (2, 9, 4, 6), "cuda")
    arguments = (g, out, other, x_mask, 0.5, False, None, 2, 2, 2, 2, 0, 0)
    results = torch.library.opcheck(torch.ops.sign_ext.average_pool_backward, arguments)
    assert set(results.values()) == {"SUCCESS"}
