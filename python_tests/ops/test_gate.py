"""position_sums and gate against einsum in float64."""

from __future__ import annotations

import pytest
import torch
from gate_checks import check_gate, check_position_sums
from hypothesis import given
from hypothesis import strategies as st
from tensors import DTYPES, channels_last, needs_native, normal
from torch._subclasses.fake_tensor import FakeTensorMode

from sign_ext.ops.gate import gate, position_sums

shapes = st.tuples(
    st.integers(1, 3), st.sampled_from([1, 3, 8, 19, 128, 130]), st.integers(1, 9), st.integers(1, 9)
)


@given(shapes, st.sampled_from(DTYPES), st.booleans(), st.integers(0, 2**32 - 1))
def test_sums_of_any_size(shape, dtype, y, numbers):
    check_position_sums(torch.Generator().manual_seed(numbers), shape, dtype, y=y)


@given(shapes, st.sampled_from(DTYPES), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_gates_of_any_size(shape, dtype, shift, in_place, numbers):
    generator = torch.Generator().manual_seed(numbers)
    check_gate(generator, shape, dtype, shift=shift, in_place=in_place)


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_rows_than_one_thread_is_given(dtype, torch_rng):
    check_position_sums(torch_rng, (5, 40, 63, 65), dtype, y=True)
    check_gate(torch_rng, (5, 40, 63, 65), dtype, shift=True)


def test_many_positions_are_added_without_much_rounding():
    """One after the other in float32, a million would be off by 1e-2."""
    x = channels_last(torch.full((1, 2, 1000, 1000), 0.1))
    out = torch.empty(1, 2)
    position_sums(x, out, factor=1e-6)
    torch.testing.assert_close(out, torch.full((1, 2), 0.1), rtol=3e-4, atol=0)


def test_references_refuse_other_shapes():
    x = torch.zeros(2, 8, 3, 3)
    with pytest.raises(ValueError, match="out must have 16 elements"):
        position_sums.reference(x, torch.zeros(8))
    with pytest.raises(ValueError, match="out must have x's shape"):
        gate.reference(x, x[:1], torch.zeros(2, 8))


@needs_native
def test_native_operators_name_what_they_refuse():
    x = channels_last(torch.zeros(2, 8, 3, 3))
    with pytest.raises(RuntimeError, match=r"x must be \(N, C, H, W\)"):
        position_sums(torch.zeros(2, 8), torch.zeros(2, 8))
    with pytest.raises(RuntimeError, match="out must be 16 contiguous float32 values"):
        position_sums(x, torch.zeros(8))
    with pytest.raises(RuntimeError, match="y must have x's shape"):
        position_sums(x, torch.zeros(2, 8), y=x[:1])
    with pytest.raises(RuntimeError, match="scale must be 16 contiguous float32 values"):
        gate(x, x, torch.zeros(2, 8, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="out must have x's dtype"):
        gate(x, x.bfloat16(), torch.zeros(2, 8))
    with pytest.raises(RuntimeError, match="shift must be 16 contiguous float32 values"):
        gate(x, x, torch.zeros(2, 8), shift=torch.zeros(8))


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("everything", [False, True])
def test_opcheck(dtype, everything, torch_rng):
    x, y = (normal(torch_rng, (2, 9, 3, 4), dtype, "cpu") for _ in range(2))
    constants = [normal(torch_rng, (2, 9), torch.float32, "cpu") for _ in range(2)]
    arguments = (x, constants[0], y if everything else None, 0.5)
    results = torch.library.opcheck(torch.ops.sign_ext.position_sums, arguments)
    assert set(results.values()) == {"SUCCESS"}
    arguments = (x, torch.zeros_like(x), constants[0], constants[1] if everything else None)
    results = torch.library.opcheck(torch.ops.sign_ext.gate, arguments)
    assert set(results.values()) == {"SUCCESS"}


@needs_native
def test_fake_tensors_are_refused_or_left_alone():
    with FakeTensorMode():
        x, scale = channels_last(torch.empty(3, 8, 2, 2)), torch.empty(3, 8)
        gate(x, x, scale)
        position_sums(x, scale)
        with pytest.raises(RuntimeError, match="out must have x's shape"):
            gate(x, x[:1], scale)


@needs_native
def test_empty_batches():
    x, scale = channels_last(torch.empty(0, 8, 4, 4)), torch.empty(0, 8)
    gate(x, x, scale, shift=scale)
    position_sums(x, scale)
