"""activate and pack_mask on a GPU: every dtype, combination and alignment, streams and graphs."""

from __future__ import annotations

import pytest
import torch
from activate_checks import ACTIVATIONS, DTYPES, check_activate, check_pack_mask
from tensors import around_bounds, poisoned

from sign_ext.ops.activate import activate
from sign_ext.ops.activation import RELU6, mask_shape

SHAPES = [(1, 1), (3, 7), (5, 8), (2, 22, 3, 5), (2, 24, 7, 3), (4, 33, 9, 9), (37, 520)]


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("onto", ["fresh", "x", "residual"])
def test_cuda_matches_the_reference(shape, dtypes, activation, onto, torch_rng):
    for affine in (False, True):
        for residual in (False, True):
            check_activate(
                torch_rng,
                shape,
                dtypes,
                activation,
                scale=affine,
                bias=affine,
                residual=residual,
                onto=onto,
                device="cuda",
            )
    check_pack_mask(torch_rng, shape, dtypes[1], activation, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("dtypes", DTYPES)
def test_cuda_more_than_the_grid(dtypes, torch_rng):
    check_activate(
        torch_rng, (64, 96, 57, 55), dtypes, RELU6, bias=True, residual=True, device="cuda"
    )


@pytest.mark.gpu
@pytest.mark.parametrize("offset", [1, 2, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_tensors_behind_a_boundary(offset, dtype, torch_rng):
    x = torch.randn(offset + 40 * 24, generator=torch_rng).to("cuda", dtype)[offset:].view(40, 24)
    bias = torch.randn(offset + 24, generator=torch_rng).cuda()[offset:]
    out, expected = torch.empty_like(x), torch.empty_like(x)
    activate(x, out, activation=RELU6, bias=bias)
    activate.reference(x, expected, activation=RELU6, bias=bias)
    torch.testing.assert_close(out, expected)


@pytest.mark.gpu
def test_cuda_on_a_side_stream_and_in_a_graph(torch_rng):
    x = around_bounds(torch_rng, (5, 24, 31, 33), torch.bfloat16, "cuda")
    out = poisoned(tuple(x.shape), torch.bfloat16, "cuda")
    mask = poisoned(mask_shape(x.shape), torch.uint8, "cuda")
    expected, bits = torch.empty_like(out), torch.empty_like(mask)
    activate.reference(x, expected, activation=RELU6, mask=bits)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        activate(x, out, activation=RELU6, mask=mask)
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(out, expected, equal_nan=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        activate(x, out, activation=RELU6, mask=mask)
    out.zero_()
    mask.zero_()
    graph.replay()
    torch.testing.assert_close(out, expected, equal_nan=True)
    assert torch.equal(mask, bits)


@pytest.mark.gpu
def test_cuda_opcheck(torch_rng):
    x = around_bounds(torch_rng, (2, 9, 3, 4), torch.float32, "cuda")
    mask = torch.zeros(mask_shape(x.shape), dtype=torch.uint8, device="cuda")
    constants = (torch.ones(9, device="cuda"), torch.ones(9, device="cuda"), torch.ones_like(x))
    arguments = (x, torch.zeros_like(x), *constants, mask, *RELU6)
    results = torch.library.opcheck(torch.ops.sign_ext.activate, arguments)
    assert set(results.values()) == {"SUCCESS"}
    results = torch.library.opcheck(torch.ops.sign_ext.pack_mask, (x, mask, *RELU6))
    assert set(results.values()) == {"SUCCESS"}
