"""max_pool against torch's own pooling in float64, on every route, dtype, size and window."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from max_pool_checks import ACTIVATIONS, check_max_pool
from pool_windows import DTYPES, WINDOWS, Window, innermost, shapes, windows
from torch._subclasses.fake_tensor import FakeTensorMode

from sign_ext.ops import native
from sign_ext.ops.activation import IDENTITY, RELU, Piecewise
from sign_ext.ops.max_pool import index_bits, index_shape, max_pool, pack_index, unpack_index

needs_native = pytest.mark.skipif(
    not native.NATIVE.loaded, reason=f"no extension: {native.NATIVE.why}"
)


@given(
    shape=shapes,
    window=windows(),
    dtype=st.sampled_from([*DTYPES, torch.float64]),
    activation=st.sampled_from(ACTIVATIONS),
    bias=st.booleans(),
    mask=st.booleans(),
    nan=st.booleans(),
    numbers=st.integers(0, 2**32 - 1),
)
def test_any_size_window_and_combination(
    shape, window, dtype, activation, bias, mask, nan, numbers
):
    assume(window.fits(*shape[2:]))
    generator = torch.Generator().manual_seed(numbers)
    check_max_pool(generator, shape, window, dtype, activation, bias=bias, mask=mask, nan=nan)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("run", [max_pool, max_pool.reference])
def test_windows_of_networks(window, dtype, run, torch_rng):
    for channels in (16, 22, 64):
        for nan in (False, True):
            shape = (2, channels, 13, 18)
            check_max_pool(torch_rng, shape, window, dtype, RELU, nan=nan, run=run)


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_rows_than_one_thread_is_given(dtype, torch_rng):
    for window in WINDOWS[:5]:
        check_max_pool(torch_rng, (5, 33, 40, 38), window, dtype, RELU, nan=False)


@pytest.mark.parametrize("run", [max_pool, max_pool.reference])
@pytest.mark.parametrize("channels", [1, 16])
def test_ties_and_nan_are_pytorchs(run, channels):
    nan, inf = math.nan, math.inf
    rows = [  # a window's values, and the position that wins
        ([1.0, 3.0, 3.0, 2.0], 1),
        ([-inf, -inf, -inf, -inf], 0),
        ([nan, 5.0, 1.0, 2.0], 0),
        ([9.0, nan, 1.0, 2.0], 1),
        ([nan, 5.0, nan, inf], 2),
        ([-0.0, 0.0, -0.0, 0.0], 0),
    ]
    for values, position in rows:
        x = innermost(torch.tensor(values).view(1, 1, 2, 2).repeat(1, channels, 1, 1))
        y, index = torch.empty(1, channels, 1, 1), torch.empty(1, -(-channels // 8), 2).byte()
        run(x, y, index, kernel=(2, 2), stride=(2, 2))
        assert unpack_index(index, y.shape).flatten().tolist() == [position] * channels
        torch.testing.assert_close(
            y.flatten(), torch.full((channels,), values[position]), rtol=0, atol=0, equal_nan=True
        )


def test_index_holds_each_channels_position_in_its_bits():
    for kernel, bits in [((1, 1), 2), ((2, 2), 2), ((1, 5), 4), ((4, 4), 4), ((5, 5), 8)]:
        assert index_bits(kernel) == bits
    assert index_bits((16, 16)) == 8
    with pytest.raises(ValueError, match="17×16 has more than 256"):
        index_bits((17, 16))
    assert index_shape((2, 9, 3, 5), (3, 3)) == (30, 2, 4)
    where = torch.tensor([3, 1, 0, 2, 2, 0, 0, 1, 3]).view(1, 9, 1, 1)
    packed = pack_index(where, 2)
    assert packed.tolist() == [[[0b10000111, 0b01000010], [3, 0]]]
    assert torch.equal(unpack_index(packed, where.shape), where)


@pytest.mark.parametrize("run", [max_pool, max_pool.reference])
def test_an_empty_batch(run):
    y, index = innermost(torch.empty(0, 8, 2, 2)), torch.empty(0, 1, 2, dtype=torch.uint8)
    run(innermost(torch.empty(0, 8, 4, 4)), y, index, kernel=(2, 2), stride=(2, 2))


def test_the_reference_runs_where_nothing_is_built(monkeypatch, torch_rng):
    monkeypatch.setattr(native, "NATIVE", native.Native(None, "left out for this test"))
    calls = []
    reference = max_pool.reference

    def counted(*args, **options):
        calls.append(1)
        reference(*args, **options)

    monkeypatch.setattr(max_pool, "reference", counted)
    x = innermost(torch.randn(1, 3, 4, 4, generator=torch_rng))
    y, index = torch.empty(1, 3, 2, 2), torch.empty(4, 1, 2, dtype=torch.uint8)
    max_pool(x, y, index, kernel=(2, 2), stride=(2, 2))
    assert calls == [1]
    torch.testing.assert_close(y, torch.nn.functional.max_pool2d(x, 2))


def arguments(**changed):
    given = {
        "x": innermost(torch.zeros(2, 9, 4, 6)),
        "out": innermost(torch.zeros(2, 9, 2, 3)),
        "index": torch.zeros(12, 2, 2, dtype=torch.uint8),
        "mask": torch.zeros(12, 2, dtype=torch.uint8),
        "bias": torch.zeros(9),
        "kernel": (2, 2),
        "stride": (2, 2),
        "activation": RELU,
    }
    return given | changed


@needs_native
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"x": torch.zeros(2, 9, 4, 6)}, "x must be dense with its channels innermost"),
        ({"x": torch.zeros(2, 9)}, r"x must be \(N, C, H, W\)"),
        ({"out": torch.zeros(2, 9, 2, 3)}, "out must be dense"),
        ({"out": innermost(torch.zeros(1, 9, 2, 3))}, "out must have x's batch size"),
        ({"out": innermost(torch.zeros(2, 8, 2, 3))}, "out must have x's batch size, channels"),
        ({"out": innermost(torch.zeros(2, 9, 2, 3)).bfloat16()}, "dtype"),
        ({"index": torch.zeros(12, 2, 2)}, "index must be contiguous uint8"),
        ({"index": torch.zeros(12, 2, 4, dtype=torch.uint8)}, r"shape \(12, 2, 2\)"),
        ({"mask": torch.zeros(12, 1, dtype=torch.uint8)}, r"mask must be .* \(12, 2\)"),
        ({"bias": torch.zeros(8)}, "bias must be 9"),
        ({"bias": torch.zeros(9).double()}, "bias must be 9 contiguous float32"),
        ({"kernel": (17, 17)}, "more than 256 positions"),
        ({"kernel": (0, 2)}, "kernel, stride and dilation must be positive"),
        ({"stride": (2, 0)}, "stride and dilation must be positive"),
        ({"padding": (-1, 0)}, "padding not negative"),
        ({"padding": (2, 0)}, "padding as large as the window"),
        ({"stride": (4, 2)}, "window 1 begins behind the image of 4 positions"),
        ({"dilation": (9, 1), "padding": (5, 0)}, "window 0 has no position inside"),
        ({"activation": Piecewise(slope=-0.5)}, "slope must not be negative"),
        ({"activation": Piecewise(low=math.nan)}, "low and high must be numbers"),
    ],
)
def test_bad_arguments_are_refused_and_named(changed, words):
    given = arguments(**changed)
    x, out, index = given.pop("x"), given.pop("out"), given.pop("index")
    with pytest.raises(RuntimeError, match=words):
        max_pool(x, out, index, **given)


@needs_native
def test_shared_memory_is_refused():
    given = arguments()
    x, out, index = given.pop("x"), given.pop("out"), given.pop("index")
    with pytest.raises(RuntimeError, match="out shares memory with x"):
        max_pool(x, x.as_strided(out.shape, out.stride(), 100), index, **given)
    given["mask"] = torch.empty(0, dtype=torch.uint8).set_(out.untyped_storage(), 0, (12, 2))
    with pytest.raises(RuntimeError, match="mask shares memory with out"):
        max_pool(x, out, index, **given)
    given["mask"] = index.view(-1)[:24].view(12, 2)
    with pytest.raises(RuntimeError, match="mask shares memory with index"):
        max_pool(x, out, index, **given)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype, torch_rng):
    x = innermost(torch.randn(2, 9, 5, 6, generator=torch_rng).to(dtype))
    y = torch.zeros_like(x[:, :, :2, :3]).contiguous(memory_format=torch.channels_last)
    index = torch.zeros(12, 2, 2, dtype=torch.uint8)
    mask = torch.zeros(12, 2, dtype=torch.uint8)
    numbers = (2, 2, 2, 2, 0, 0, 1, 1)
    for constants in [(torch.ones(9), mask), (None, None)]:
        results = torch.library.opcheck(
            torch.ops.sign_ext.max_pool, (x, y, index, *constants, *RELU, *numbers)
        )
        assert set(results.values()) == {"SUCCESS"}


@needs_native
def test_fake_tensors_stay_what_they_are():
    with FakeTensorMode():
        x, y = innermost(torch.empty(2, 9, 4, 4)), innermost(torch.empty(2, 9, 2, 2))
        index = torch.empty(8, 2, 2, dtype=torch.uint8)
        max_pool(x, y, index, kernel=(2, 2), stride=(2, 2), activation=IDENTITY)
        assert y.shape == (2, 9, 2, 2)
        with pytest.raises(RuntimeError, match="out must have x's channels"):
            max_pool(x, y[:, :8], index, kernel=(2, 2), stride=(2, 2))


def test_window_names_the_positions_that_torch_found():
    """The tests' own conversion of torch's flat index, on one window by hand."""
    x = torch.zeros(1, 1, 4, 5)
    x[0, 0, 2, 3] = 1.0
    value, position = Window((3, 3), (2, 2), (1, 1)).max_pool(x)
    assert value[0, 0, 1].tolist() == [0.0, 1.0, 1.0]
    assert position[0, 0, 1, 1:].tolist() == [5, 3]
