"""max_pool_backward on a GPU: every window and dtype, a graph, the same sum every time, opcheck."""

from __future__ import annotations

import pytest
import torch
from max_pool_backward_checks import check_max_pool_backward
from pool_windows import DTYPES, WINDOWS, innermost, normal, random_mask

from sign_ext.ops.max_pool import max_pool_backward

VARIANTS = [(None, "none", None), (0.0, "none", 0.0), (0.25, "apart", None), (0.0, "out", 0.25)]


@pytest.mark.gpu
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 8, 22, 64])
def test_cuda_matches_autograd(window, dtype, channels, torch_rng):
    for slope, other, x_slope in VARIANTS:
        check_max_pool_backward(
            torch_rng,
            (2, channels, 13, 18),
            window,
            dtype,
            slope=slope,
            other=other,
            x_slope=x_slope,
            device="cuda",
        )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_many_blocks(dtype, torch_rng):
    for window in WINDOWS[:4]:
        check_max_pool_backward(torch_rng, (33, 72, 57, 55), window, dtype, device="cuda")


@pytest.mark.gpu
def test_cuda_in_a_graph_gives_the_same_bits(torch_rng):
    g = normal(torch_rng, (3, 24, 6, 5), torch.float32, "cuda")
    index = random_mask(torch_rng, (90, 12), "cuda").view(90, 3, 4) & 0x77  # positions 0 to 7
    out, again = (innermost(torch.zeros(3, 24, 13, 11, device="cuda")) for _ in range(2))
    max_pool_backward(g, index, out, kernel=(3, 3), stride=(2, 2))
    assert out.any()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        max_pool_backward(g, index, again, kernel=(3, 3), stride=(2, 2))
    for _ in range(3):
        again.fill_(7.0)
        graph.replay()
        assert torch.equal(again, out)


@pytest.mark.gpu
def test_cuda_opcheck(torch_rng):
    g = normal(torch_rng, (2, 9, 2, 3), torch.bfloat16, "cuda")
    out, other = (normal(torch_rng, (2, 9, 4, 6), torch.bfloat16, "cuda") for _ in range(2))
    index = random_mask(torch_rng, (12, 4), "cuda").view(12, 2, 2)
    mask, x_mask = (random_mask(torch_rng, (rows, 2), "cuda") for rows in (12, 48))
    arguments = (g, index, out, mask, 0.5, other, x_mask, 0.0, 2, 2, 2, 2, 0, 0, 1, 1)
    results = torch.library.opcheck(torch.ops.sign_ext.max_pool_backward, arguments)
    assert set(results.values()) == {"SUCCESS"}
