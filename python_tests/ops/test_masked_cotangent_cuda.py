"""masked_cotangent on a GPU: every dtype, combination and alignment, streams and graphs."""

from __future__ import annotations

import itertools

import pytest
import torch
from masked_cotangent_checks import (
    AUTOGRAD_ACTIVATIONS,
    check_against_autograd,
    check_masked_cotangent,
)
from tensors import around_bounds, poisoned, random_mask

from sign_ext.ops.masked_cotangent import masked_cotangent

SHAPES = [(1, 1), (3, 7), (5, 8), (2, 22, 3, 5), (2, 24, 7, 3), (4, 33, 9, 9), (37, 520)]
DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("slope", [0.0, 0.25])
@pytest.mark.parametrize("onto", ["fresh", "g", "other"])
def test_cuda_matches_the_reference(shape, dtype, slope, onto, torch_rng):
    for mask, scale, other in itertools.product((False, True), repeat=3):
        check_masked_cotangent(
            torch_rng,
            shape,
            dtype,
            mask=mask,
            slope=slope,
            scale=scale,
            other=other,
            onto=onto,
            device="cuda",
        )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_more_than_the_grid(dtype, torch_rng):
    check_masked_cotangent(torch_rng, (64, 96, 57, 55), dtype, scale=True, device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("activation", AUTOGRAD_ACTIVATIONS)
@pytest.mark.parametrize("shape", [(5, 19), (2, 16, 5, 3)])
def test_cuda_with_activate_it_is_autograds_backward(shape, activation, torch_rng):
    check_against_autograd(torch_rng, shape, activation, torch.float32, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("offset", [1, 2, 4, 8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_tensors_behind_a_boundary(offset, dtype, torch_rng):
    g = torch.randn(offset + 40 * 24, generator=torch_rng).to("cuda", dtype)[offset:].view(40, 24)
    mask = random_mask(torch_rng, (40, 24), "cuda")
    out, expected = torch.empty_like(g), torch.empty_like(g)
    masked_cotangent(g, out, mask=mask, slope=0.5)
    masked_cotangent.reference(g, expected, mask=mask, slope=0.5)
    torch.testing.assert_close(out, expected)


@pytest.mark.gpu
def test_cuda_on_a_side_stream_and_in_a_graph(torch_rng):
    shape = (5, 24, 31, 33)
    g = around_bounds(torch_rng, shape, torch.bfloat16, "cuda")
    mask = random_mask(torch_rng, shape, "cuda")
    out, expected = poisoned(shape, torch.bfloat16, "cuda"), torch.empty_like(g)
    masked_cotangent.reference(g, expected, mask=mask)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        masked_cotangent(g, out, mask=mask)
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(out, expected, equal_nan=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        masked_cotangent(g, out, mask=mask)
    out.zero_()
    graph.replay()
    torch.testing.assert_close(out, expected, equal_nan=True)


@pytest.mark.gpu
def test_cuda_opcheck(torch_rng):
    shape = (2, 9, 3, 4)
    g = around_bounds(torch_rng, shape, torch.float32, "cuda")
    mask = random_mask(torch_rng, shape, "cuda")
    scale = torch.ones(9, device="cuda")
    arguments = (g, torch.zeros_like(g), mask, 0.5, scale, torch.ones_like(g))
    results = torch.library.opcheck(torch.ops.sign_ext.masked_cotangent, arguments)
    assert set(results.values()) == {"SUCCESS"}
