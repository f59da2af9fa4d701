"""position_sums and gate on a GPU: sizes, dtypes, a graph, opcheck."""

from __future__ import annotations

import pytest
import torch
from gate_checks import check_gate, check_position_sums
from smooth_checks import draw
from tensors import DTYPES, normal

from sign_ext.ops.gate import gate, position_sums


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 19, 5, 3), (3, 33, 1, 7), (9, 72, 57, 55)])
def test_cuda_gate(shape, dtype, torch_rng):
    for both in (False, True):
        check_position_sums(torch_rng, shape, dtype, y=both, device="cuda")
        check_gate(torch_rng, shape, dtype, shift=both, in_place=both, device="cuda")


@pytest.mark.gpu
def test_cuda_gate_in_a_graph(torch_rng):
    x = draw(torch_rng, (3, 24, 6, 5), torch.float32, "cuda")
    scale = normal(torch_rng, (3, 24), torch.float32, "cuda")

    def work(out, sums):
        position_sums(x, sums, y=x)
        gate(x, out, scale, shift=sums)

    def buffers():
        return torch.zeros_like(x), torch.zeros_like(scale)

    wanted, got = buffers(), buffers()
    work(*wanted)
    assert wanted[0].any()
    assert wanted[1].any()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work(*got)
    graph.replay()
    assert torch.equal(got[0], wanted[0])
    assert torch.equal(got[1], wanted[1])


@pytest.mark.gpu
def test_cuda_gate_opcheck(torch_rng):
    x, g = (draw(torch_rng, (2, 9, 3, 4), torch.bfloat16, "cuda") for _ in range(2))
    constants = [normal(torch_rng, (2, 9), torch.float32, "cuda") for _ in range(2)]
    ops = torch.ops.sign_ext
    for operator, arguments in (
        (ops.position_sums, (x, constants[0], g, 0.5)),
        (ops.gate, (x, torch.zeros_like(x), *constants)),
    ):
        assert set(torch.library.opcheck(operator, arguments).values()) == {"SUCCESS"}
