"""stem_update_ on a GPU: the checks of the CPU, a side stream and a graph, opcheck."""

from __future__ import annotations

import pytest
import torch
from stem_update_checks import (
    STEMS,
    Stem,
    check_against_autograd,
    check_against_the_reference,
    check_the_same_bits_every_time,
    check_the_watch,
    problem,
    wide,
)
from tensors import DTYPES

from sign_ext.ops.stem_update import stem_update_

pytestmark = pytest.mark.gpu
# Weights that fill less and more than the shared memory that a launch has without asking.
LARGE = [
    Stem(images=3, size=(64, 64), kernel=(7, 7), stride=(2, 2), padding=(3, 3), channels=(3, 64)),
    Stem(size=(21, 17), kernel=(7, 7), padding=(3, 3), channels=(4, 64)),
    Stem(images=300, size=(32, 32)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stem", STEMS + LARGE)
@pytest.mark.parametrize(
    "left_out", [set(), {"mask", "velocity"}, {"watch", "counts", "clamp_min"}]
)
def test_cuda_matches_the_reference(stem, dtype, left_out, torch_rng):
    check_against_the_reference(stem, "cuda", dtype, torch_rng, left_out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stem", STEMS)
def test_cuda_gives_the_same_bits_every_time(stem, dtype, torch_rng):
    check_the_same_bits_every_time(stem, "cuda", dtype, torch_rng)


@pytest.mark.parametrize("slope", [0.0, 0.2])
@pytest.mark.parametrize("stem", STEMS)
def test_cuda_delta_is_what_autograd_sends_back(slope, stem):
    check_against_autograd(stem_update_, stem, "cuda", slope)


def test_cuda_watch():
    check_the_watch(stem_update_, "cuda")


@pytest.mark.parametrize("offset", [1, 3])
def test_cuda_misaligned(offset, torch_rng):
    tensors, options = problem(Stem(), "cuda", torch.bfloat16, torch_rng)
    g = tensors["g"]
    storage = torch.empty(g.numel() + offset, device="cuda", dtype=g.dtype)
    tensors["g"] = storage[offset:].as_strided(g.shape, g.stride()).copy_(g)
    expected = wide(tensors)
    stem_update_(**tensors, **options)
    stem_update_.reference(**expected, **options)
    torch.testing.assert_close(tensors["p"].cpu().double(), expected["p"], rtol=2e-6, atol=3e-4)


def test_cuda_on_a_side_stream_and_in_a_graph(torch_rng):
    tensors, options = problem(Stem(images=5), "cuda", torch.bfloat16, torch_rng)
    expected = wide(tensors)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        stem_update_(**tensors, **options)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        stem_update_(**tensors, **options)
    graph.replay()
    for _ in range(2):  # recording changes nothing
        stem_update_.reference(**expected, **options)
    assert tensors["counts"].tolist() == expected["counts"].tolist()
    for name in ("p", "velocity", "watch"):
        torch.testing.assert_close(
            tensors[name].cpu().double(), expected[name], rtol=4e-6, atol=1e-3
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_opcheck(dtype, torch_rng):
    tensors, _ = problem(Stem(), "cuda", dtype, torch_rng)
    names = ("p", "g", "weight", "velocity", "mask")
    arguments = (*(tensors[name] for name in names), 0.1, tensors["watch"], tensors["counts"])
    numbers = (1, 1, 1, 1, 1, 1, 0.5, 0.9, 0.0, None)
    results = torch.library.opcheck(torch.ops.sign_ext.stem_update_, (*arguments, *numbers))
    assert set(results.values()) == {"SUCCESS"}
