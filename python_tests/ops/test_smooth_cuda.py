"""smooth and smooth_backward on a GPU: sizes, dtypes, a graph, opcheck."""

from __future__ import annotations

import pytest
import torch
from smooth_checks import check_smooth, draw
from tensors import DTYPES, poisoned

from sign_ext.ops.smooth import SmoothFunction, smooth, smooth_backward


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", list(SmoothFunction))
@pytest.mark.parametrize("shape", [(1,), (5, 19), (2, 16, 5, 3), (9, 72, 57, 55)])
def test_cuda_smooth(shape, function, dtype, torch_rng):
    check_smooth(torch_rng, shape, dtype, function, in_place=True, other=True, device="cuda")
    check_smooth(torch_rng, shape, dtype, function, fine=True, onto="g", device="cuda")


@pytest.mark.gpu
def test_cuda_smooth_in_a_graph(torch_rng):
    x = draw(torch_rng, (3, 24, 6, 5), torch.float32, "cuda")

    def work(out, steps):
        smooth(x, out, steps, function=SmoothFunction.SILU)
        smooth_backward(out, steps, out, function=SmoothFunction.SILU)

    def buffers():
        return torch.zeros_like(x), torch.zeros_like(x, dtype=torch.int16)

    wanted, got = buffers(), buffers()
    work(*wanted)
    assert wanted[0].any()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work(*got)
    graph.replay()
    assert torch.equal(got[0], wanted[0])


@pytest.mark.gpu
def test_cuda_smooth_opcheck(torch_rng):
    x, g = (draw(torch_rng, (2, 9, 3, 4), torch.bfloat16, "cuda") for _ in range(2))
    steps = poisoned(tuple(x.shape), torch.int16, "cuda")
    ops = torch.ops.sign_ext
    for operator, arguments in (
        (ops.smooth, (x, torch.zeros_like(x), steps, None, 0)),
        (ops.smooth_backward, (g, steps, torch.zeros_like(g), None, torch.zeros_like(g), 0)),
    ):
        assert set(torch.library.opcheck(operator, arguments).values()) == {"SUCCESS"}
