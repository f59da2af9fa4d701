"""max_pool and max_pool_backward on a GPU: every window, dtype and alignment, graphs, opcheck."""

from __future__ import annotations

import pytest
import torch
from max_pool_checks import ACTIVATIONS, check_max_pool, check_max_pool_backward
from pool_windows import WINDOWS, Window
from tensors import DTYPES, channels_last, normal, random_bytes

from sign_ext.ops.activation import RELU, RELU6
from sign_ext.ops.max_pool import index_shape, max_pool, max_pool_backward


@pytest.mark.gpu
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 8, 22, 64])
def test_cuda_matches_torchs_own(window, dtype, channels, torch_rng):
    for i, activation in enumerate(ACTIVATIONS):
        check_max_pool(
            torch_rng,
            (2, channels, 13, 18),
            window,
            dtype,
            activation,
            bias=i % 2 == 0,
            mask=i % 3 != 0,
            device="cuda",
        )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_many_blocks(dtype, torch_rng):
    for window in WINDOWS[:4]:
        check_max_pool(torch_rng, (33, 72, 57, 55), window, dtype, RELU, device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [1, 4])
@pytest.mark.parametrize("misaligned", ["x", "out", "index"])
def test_cuda_tensors_behind_a_boundary(dtype, offset, misaligned, torch_rng):
    shape, out_shape = (2, 16, 6, 6), (2, 16, 3, 3)

    def laid_out(name: str, size: tuple[int, ...], kind: torch.dtype) -> torch.Tensor:
        shift = offset if name == misaligned else 0
        memory = torch.zeros(shift + 2 * 16 * 36, dtype=kind, device="cuda")[shift:]
        if len(size) == 3:
            return memory[: size[0] * size[1] * size[2]].view(size)
        n, c, h, w = size
        return memory[: n * c * h * w].view(n, h, w, c).permute(0, 3, 1, 2)

    x = laid_out("x", shape, dtype).copy_(normal(torch_rng, shape, dtype, "cuda"))
    index = laid_out("index", index_shape(out_shape, (2, 2)), torch.uint8)
    y, expected = laid_out("out", out_shape, dtype), laid_out("", out_shape, dtype)
    expected_index = torch.empty_like(index)
    max_pool(x, y, index, kernel=(2, 2), stride=(2, 2))
    max_pool.reference(x, expected, expected_index, kernel=(2, 2), stride=(2, 2))
    assert torch.equal(y, expected)
    assert torch.equal(index, expected_index)


@pytest.mark.gpu
def test_cuda_on_a_side_stream_and_in_a_graph(torch_rng):
    window = Window((3, 3), (2, 2), (1, 1))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        check_max_pool(torch_rng, (3, 24, 11, 9), window, torch.bfloat16, RELU6, device="cuda")
    torch.cuda.current_stream().wait_stream(stream)
    x = normal(torch_rng, (3, 24, 11, 9), torch.bfloat16, "cuda")
    y = channels_last(torch.zeros(3, 24, 6, 5, dtype=torch.bfloat16, device="cuda"))
    index = torch.zeros(index_shape(y.shape, (3, 3)), dtype=torch.uint8, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        max_pool(x, y, index, **window.options)
    graph.replay()
    assert torch.equal(y, torch.nn.functional.max_pool2d(x, 3, 2, 1))


@pytest.mark.gpu
def test_cuda_opcheck(torch_rng):
    x = normal(torch_rng, (2, 9, 5, 6), torch.bfloat16, "cuda")
    y = channels_last(torch.zeros(2, 9, 2, 3, dtype=torch.bfloat16, device="cuda"))
    index = torch.zeros(12, 2, 2, dtype=torch.uint8, device="cuda")
    mask = torch.zeros(12, 2, dtype=torch.uint8, device="cuda")
    bias = torch.ones(9, device="cuda")
    arguments = (x, y, index, bias, mask, *RELU, 2, 2, 2, 2, 0, 0, 1, 1)
    results = torch.library.opcheck(torch.ops.sign_ext.max_pool, arguments)
    assert set(results.values()) == {"SUCCESS"}


VARIANTS = [(None, "none", None), (0.0, "none", 0.0), (0.25, "apart", None), (0.0, "out", 0.25)]


@pytest.mark.gpu
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 8, 22, 64])
def test_cuda_backward_matches_autograd(window, dtype, channels, torch_rng):
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
def test_cuda_backward_many_blocks(dtype, torch_rng):
    for window in WINDOWS[:4]:
        check_max_pool_backward(torch_rng, (33, 72, 57, 55), window, dtype, device="cuda")


@pytest.mark.gpu
def test_cuda_backward_in_a_graph_gives_the_same_bits(torch_rng):
    g = normal(torch_rng, (3, 24, 6, 5), torch.float32, "cuda")
    index = random_bytes(torch_rng, (90, 12), "cuda").view(90, 3, 4) & 0x77  # positions 0 to 7
    out, again = (channels_last(torch.zeros(3, 24, 13, 11, device="cuda")) for _ in range(2))
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
def test_cuda_backward_opcheck(torch_rng):
    g = normal(torch_rng, (2, 9, 2, 3), torch.bfloat16, "cuda")
    out, other = (normal(torch_rng, (2, 9, 4, 6), torch.bfloat16, "cuda") for _ in range(2))
    index = random_bytes(torch_rng, (12, 4), "cuda").view(12, 2, 2)
    mask, x_mask = (random_bytes(torch_rng, (rows, 2), "cuda") for rows in (12, 48))
    arguments = (g, index, out, mask, 0.5, other, x_mask, 0.0, 2, 2, 2, 2, 0, 0, 1, 1)
    results = torch.library.opcheck(torch.ops.sign_ext.max_pool_backward, arguments)
    assert set(results.values()) == {"SUCCESS"}
