"""sign_update_ on a GPU: every dtype and alignment, a side stream, a graph, opcheck."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sign_update_checks import (
    DELTA_TYPES,
    assert_matches,
    check_the_report,
    check_the_watch,
    problem,
)
from torch import Tensor

from sign_ext.ops import sign_update_, sign_update_route


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DELTA_TYPES)
@pytest.mark.parametrize("with_velocity", [False, True])
@pytest.mark.parametrize("offsets", [(0, 0, 0), (1, 1, 1), (3, 7, 3), (1, 2, 3), (0, 4, 0)])
@pytest.mark.parametrize("n", [1, 7, 31, 1025, 100_003])
def test_cuda_matches_the_formula(dtype, with_velocity, offsets, n, torch_rng):
    p, delta, velocity = (
        torch.cat([torch.zeros(offset, device="cuda", dtype=value.dtype), value])[offset:]
        for offset, value in zip(offsets, problem(torch_rng, (n,), dtype, "cuda"), strict=True)
    )
    assert sign_update_route(p, delta, velocity) == "native-cuda"
    assert_matches(
        sign_update_,
        p,
        delta,
        velocity if with_velocity else None,
        step_size=0.3,
        momentum=0.9,
        clamp_min=10.0,
        clamp_max=200.0,
    )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DELTA_TYPES)
def test_cuda_steps_are_watched_and_counted(dtype):
    check_the_report(sign_update_, "cuda", dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DELTA_TYPES)
@pytest.mark.parametrize("n", [1, 1025, 3_000_001])
def test_cuda_watch_is_of_all_elements(dtype, n, torch_rng):
    p, delta, velocity = problem(torch_rng, (n,), dtype, "cuda")
    check_the_watch(sign_update_, p, delta, velocity, step_size=-0.7, momentum=0.9, clamp_max=30.0)


@pytest.mark.gpu
def test_cuda_replays_count_their_steps(torch_rng):
    p, delta, _ = problem(torch_rng, (300, 3, 31, 33), device="cuda")
    watch = torch.zeros(2, device="cuda")
    counts = torch.tensor([0, 2**31 - 1, 0], dtype=torch.int32, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sign_update_(p, delta, watch=watch, counts=counts)
    for _ in range(7):
        graph.replay()
    assert counts.tolist() == [7, 2**31 - 1, 0]
    delta[150, 1, 2, 3] = float("nan")
    for _ in range(3):
        graph.replay()
    assert counts.tolist() == [10, 8, 0]


@pytest.mark.gpu
def test_cuda_channels_last_on_a_side_stream_and_in_a_graph(torch_rng):
    tensors = problem(torch_rng, (5, 3, 31, 33), torch.bfloat16, "cuda")
    p, delta, velocity = (x.contiguous(memory_format=torch.channels_last) for x in tensors)
    options = {"step_size": 0.5, "momentum": 0.9, "clamp_max": 250.0}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        assert_matches(sign_update_, p, delta, velocity, **options)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sign_update_(p, delta, velocity, **options)

    def replay(p: Tensor, delta: Tensor, velocity: Tensor, **_: Any) -> None:
        graph.replay()

    for _ in range(3):
        assert_matches(replay, p, delta, velocity, **options)


@pytest.mark.gpu
def test_cuda_opcheck(torch_rng):
    p, delta, velocity = problem(torch_rng, (3, 3, 5, 7), torch.float16, "cuda")
    arguments = (p, delta, velocity, 0.5, 0.9, 0.0, None)
    results = torch.library.opcheck(torch.ops.sign_ext.sign_update_, arguments)
    assert set(results.values()) == {"SUCCESS"}
