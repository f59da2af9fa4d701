"""masked_cotangent against its reference in float64 and against autograd."""

from __future__ import annotations

import math

import pytest
import torch
from activate_checks import shapes
from hypothesis import given
from hypothesis import strategies as st
from masked_cotangent_checks import (
    AUTOGRAD_ACTIVATIONS,
    check_against_autograd,
    check_masked_cotangent,
)
from tensors import around_bounds, channels_last, needs_native, random_mask
from torch._subclasses.fake_tensor import FakeTensorMode

from sign_ext.ops import native
from sign_ext.ops.activation import mask_shape, unpack_bits
from sign_ext.ops.masked_cotangent import masked_cotangent

DTYPES = [torch.float32, torch.bfloat16]


@given(
    shape=shapes,
    dtype=st.sampled_from(DTYPES),
    mask=st.booleans(),
    slope=st.sampled_from([0.0, 0.25, -1.5]),
    scale=st.booleans(),
    other=st.booleans(),
    onto=st.sampled_from(["fresh", "g", "other"]),
    numbers=st.integers(0, 2**32 - 1),
)
def test_any_size_dtype_and_combination(shape, dtype, mask, slope, scale, other, onto, numbers):
    check_masked_cotangent(
        torch.Generator().manual_seed(numbers),
        shape,
        dtype,
        mask=mask,
        slope=slope,
        scale=scale,
        other=other,
        onto=onto,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [24, 33])
def test_more_rows_than_one_thread_is_given(dtype, channels, torch_rng):
    check_masked_cotangent(torch_rng, (9, channels, 31, 33), dtype, scale=True, other=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", AUTOGRAD_ACTIVATIONS)
@pytest.mark.parametrize("shape", [(5, 19), (2, 16, 5, 3), (1, 3, 4, 4)])
def test_with_activate_it_is_autograds_backward(shape, activation, dtype, torch_rng):
    check_against_autograd(torch_rng, shape, activation, dtype)


@pytest.mark.parametrize("run", [masked_cotangent, masked_cotangent.reference])
def test_what_is_blocked_becomes_zero_whatever_it_was(run):
    g = torch.tensor([[math.nan, math.inf, -math.inf, 1.0, math.nan]])
    out = torch.empty_like(g)
    run(g, out, mask=torch.tensor([[0b10000]], dtype=torch.uint8))
    assert out[0, :4].tolist() == [0.0] * 4
    assert out[0, 4].isnan()


@pytest.mark.parametrize("run", [masked_cotangent, masked_cotangent.reference])
def test_scale_comes_after_the_slope_and_the_sum(run):
    g, out = torch.tensor([[1.0, 1.0]]), torch.empty(1, 2)
    mask = torch.tensor([[0b01]], dtype=torch.uint8)
    run(g, out, mask=mask, slope=0.5, scale=torch.tensor([3.0, 5.0]), other=torch.ones(1, 2))
    assert out.tolist() == [[6.0, 5.0]]


@needs_native
@pytest.mark.parametrize("shape", [(0, 5), (0, 8, 4, 4), (2, 8, 0, 4)])
def test_empty_batches(shape):
    g = channels_last(torch.empty(shape))
    mask = torch.empty(mask_shape(shape), dtype=torch.uint8)
    masked_cotangent(g, g, mask=mask, scale=torch.ones(shape[1]))


def test_other_layouts_and_missing_extensions_run_on_torch(monkeypatch, torch_rng):
    mask = random_mask(torch_rng, (2, 3, 4, 5), "cpu")
    g = torch.randn(2, 3, 4, 5, generator=torch_rng, dtype=torch.float64)
    expected = torch.where(unpack_bits(mask, g.shape), g, 0)
    out = torch.empty_like(g)
    masked_cotangent(g, out, mask=mask)
    assert torch.equal(out, expected)
    monkeypatch.setattr(native, "NATIVE", native.Native(None, "left out for this test"))
    single = g.float()
    masked_cotangent(single, single, mask=mask)
    assert torch.equal(single, expected.float())


@needs_native
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"g": torch.zeros(8)}, r"g must be \(N, C\) or \(N, C, H, W\)"),
        ({"g": torch.zeros(2, 3, 4, 5)}, "g must be dense with its channels innermost"),
        ({"out": torch.zeros(2, 9)}, "out must have g's shape"),
        ({"out": torch.zeros(2, 8, dtype=torch.bfloat16)}, "out must have g's dtype"),
        ({"out": torch.zeros(2, 8, device="meta")}, "out must be on g's device"),
        ({"other": torch.zeros(2, 8, dtype=torch.bfloat16)}, "other must have g's dtype"),
        ({"other": torch.zeros(3, 8)}, "other must have g's shape"),
        ({"scale": torch.zeros(2, 8)[:, 0]}, "scale must be 8 contiguous float32 values"),
        ({"mask": torch.zeros(2, 2, dtype=torch.uint8)}, r"mask must be .* of shape \(2, 1\)"),
        ({"slope": math.nan}, "slope must be a number"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, message):
    arguments = {"g": torch.ones(2, 8), "out": torch.zeros(2, 8)} | change
    g, out = arguments.pop("g"), arguments.pop("out")
    with pytest.raises(RuntimeError, match=f"masked_cotangent: {message}"):
        masked_cotangent(g, out, **arguments)
    if not out.is_meta:
        assert not out.any()


@needs_native
def test_memory_may_be_shared_wholly_or_not_at_all():
    memory = torch.zeros(48)
    g, shifted = memory[:32].view(4, 8), memory[8:40].view(4, 8)
    with pytest.raises(RuntimeError, match="out shares memory with g without being the same"):
        masked_cotangent(g, shifted)
    with pytest.raises(RuntimeError, match="out shares memory with other without"):
        masked_cotangent(torch.zeros(4, 8), shifted, other=g)
    with pytest.raises(RuntimeError, match="mask shares memory with out"):
        masked_cotangent(torch.zeros(4, 8), g, mask=memory.view(torch.uint8)[:4].view(4, 1))


def test_the_reference_refuses_by_name():
    g = torch.zeros(2, 8)
    with pytest.raises(ValueError, match="out must have g's shape"):
        masked_cotangent.reference(g, torch.zeros(3, 8))
    with pytest.raises(ValueError, match="other must have g's shape"):
        masked_cotangent.reference(g, g, other=torch.zeros(1, 8))
    with pytest.raises(ValueError, match=r"mask must have shape \(2, 1\)"):
        masked_cotangent.reference(g, g, mask=torch.zeros(1, 1, dtype=torch.uint8))


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("everything", [False, True])
def test_opcheck(dtype, everything, torch_rng):
    shape = (2, 9, 3, 4)
    g = around_bounds(torch_rng, shape, dtype, "cpu")
    mask = random_mask(torch_rng, shape, "cpu")
    rest = (mask, 0.5, torch.ones(9), torch.ones_like(g))
    arguments = (g, torch.zeros_like(g), *(rest if everything else (None, 0.0, None, None)))
    results = torch.library.opcheck(torch.ops.sign_ext.masked_cotangent, arguments)
    assert set(results.values()) == {"SUCCESS"}


@needs_native
def test_fake_tensors_are_refused_or_left_alone():
    with FakeTensorMode():
        g, out = torch.empty(3, 8), torch.empty(3, 8)
        masked_cotangent(g, out)
        assert out.shape == (3, 8)
        with pytest.raises(RuntimeError, match="out must have g's shape"):
            masked_cotangent(g, out[:1])
