"""smooth and smooth_backward against independent definitions, differentiated by autograd."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from smooth_checks import check_smooth, draw, exact, largest_error
from tensors import DTYPES, channels_last, needs_native, poisoned
from torch._subclasses.fake_tensor import FakeTensorMode

from sign_ext.ops.smooth import SmoothFunction, smooth, smooth_backward

FUNCTIONS = list(SmoothFunction)
SHAPES = [(3,), (2, 19), (5, 64), (1, 3, 4, 4), (2, 16, 5, 3), (3, 7, 2, 9), (2, 5, 8, 3)]


@given(
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from(DTYPES),
    function=st.sampled_from(FUNCTIONS),
    fine=st.booleans(),
    in_place=st.booleans(),
    other=st.booleans(),
    onto=st.sampled_from(["fresh", "g", "other"]),
    numbers=st.integers(0, 2**32 - 1),
)
def test_any_size_dtype_and_combination(
    shape, dtype, function, fine, in_place, other, onto, numbers
):
    generator = torch.Generator().manual_seed(numbers)
    options = {"fine": fine, "in_place": in_place, "other": other, "onto": onto}
    check_smooth(generator, shape, dtype, function, **options)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_more_elements_than_one_thread_is_given(function, torch_rng):
    check_smooth(torch_rng, (3, 24, 31, 33), torch.float32, function, fine=True)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_reference_keeps_the_derivative_of_float64_as_it_is(function, torch_rng):
    x = draw(torch_rng, (4, 9, 3, 5), torch.float64, "cpu")
    value, slope = exact(function, x)
    derivative, g = torch.empty_like(x), torch.rand_like(x)
    out = torch.empty_like(x)
    smooth(x, out, derivative, function=function)
    torch.testing.assert_close(out, value, rtol=1e-12, atol=1e-12)
    # PyTorch takes hardsigmoid's 1/6 in float32.
    tolerance = 1e-8 if function is SmoothFunction.HARDSIGMOID else 1e-12
    torch.testing.assert_close(derivative, slope, rtol=tolerance, atol=tolerance)
    smooth_backward(g, derivative, out, function=function)
    torch.testing.assert_close(out, g * slope, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("run", [smooth, smooth.reference])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_far_outside_the_derivative_is_exact(run, function):
    x = torch.tensor([-1e9, -200.0, 200.0, 1e9])
    out, steps = torch.empty(4), torch.empty(4, dtype=torch.int16)
    run(x, out, steps, function=function)
    flat = function is SmoothFunction.HARDSIGMOID
    above = 0.0 if flat else 1.0
    assert function.decode(steps, None, torch.float32).tolist() == [0.0, 0.0, above, above]
    assert out.tolist() == ([0.0, 0.0, 1.0, 1.0] if flat else [0.0, 0.0, 200.0, 1e9])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_not_a_number_stays_so_in_both_directions(function):
    x = torch.tensor([math.nan, 1.0])
    steps, g = torch.empty(2, dtype=torch.int16), torch.ones(2)
    smooth(x, x, steps, function=function)
    assert x.isnan().tolist() == [True, False]
    smooth_backward(g, steps, g, function=function)
    # PyTorch's own hardsigmoid blocks it.
    blocked = function is SmoothFunction.HARDSIGMOID
    assert g.isnan().tolist() == [not blocked, False]


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_code_is_off_by_half_a_step_at_most(function, fine):
    """And by less on average; with a fraction by a 256th. What csrc/smooth/smooth.h says."""
    x = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
    slope = exact(function, x)[1]
    stored = function.decode(*function.encode(slope, fine=fine), torch.float64)
    error = stored - slope
    most = largest_error(function, fine=fine)
    assert error.abs().max() <= 1.01 * most
    assert error.square().mean().sqrt() <= 0.6 * most


@pytest.mark.parametrize("function", FUNCTIONS)
def test_zero_and_one_are_exact(function):
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for fine in (False, True):
        stored = function.decode(*function.encode(ends, fine=fine), torch.float32)
        assert stored.tolist() == [0.0, 1.0]


def test_hardswish_and_hardsigmoid_follow_pytorch_at_their_corners():
    for function in (SmoothFunction.HARDSWISH, SmoothFunction.HARDSIGMOID):
        x, steps = torch.tensor([-3.0, 3.0]), torch.empty(2, dtype=torch.int16)
        leaf = x.clone().requires_grad_()
        function.value_of(leaf).sum().backward()
        smooth(x, x, steps, function=function)
        assert function.decode(steps, None, torch.float32).tolist() == leaf.grad.tolist()


def test_references_refuse_other_shapes():
    x, steps = torch.zeros(2, 8), torch.zeros(2, 8, dtype=torch.int16)
    silu = SmoothFunction.SILU
    with pytest.raises(ValueError, match="out must have x's shape"):
        smooth.reference(x, x[:1], steps, function=silu)
    with pytest.raises(ValueError, match="derivative must have x's shape"):
        smooth.reference(x, x, steps[:1], function=silu)
    with pytest.raises(ValueError, match="other must have g's shape"):
        smooth_backward.reference(x, steps, x, other=x[:1], function=silu)


@needs_native
def test_native_operators_name_what_they_refuse():
    x, steps = channels_last(torch.zeros(2, 8, 3, 3)), poisoned((2, 8, 3, 3), torch.int16, "cpu")
    silu = SmoothFunction.SILU
    with pytest.raises(RuntimeError, match="out must have x's shape and strides"):
        smooth(x, torch.zeros(2, 8, 3, 3), steps, function=silu)
    with pytest.raises(RuntimeError, match="derivative must be int16"):
        smooth(x, x, x.clone(), function=silu)
    with pytest.raises(RuntimeError, match="fraction must be uint8"):
        smooth(x, x, steps, steps.clone(), function=silu)
    with pytest.raises(RuntimeError, match="fraction needs a derivative"):
        smooth(x, x, None, x.to(torch.uint8), function=silu)
    with pytest.raises(RuntimeError, match="x must be dense"):
        smooth(x[:, :4], x[:, :4], function=silu)
    with pytest.raises(RuntimeError, match="out shares memory with x"):
        flat = torch.zeros(9)
        smooth(flat[:8], flat[1:], function=silu)
    with pytest.raises(RuntimeError, match="out must have g's dtype"):
        smooth_backward(x, steps, x.bfloat16(), function=silu)
    with pytest.raises(RuntimeError, match="function must be a number from 0 to 5"):
        torch.ops.sign_ext.smooth(x, x, None, None, 6)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("everything", [False, True])
def test_opcheck(dtype, everything, torch_rng):
    x, g = (draw(torch_rng, (2, 9, 3, 4), dtype, "cpu") for _ in range(2))
    steps = poisoned(tuple(x.shape), torch.int16, "cpu")
    parts = torch.zeros_like(x, dtype=torch.uint8) if everything else None
    arguments = (x, torch.zeros_like(x), steps if everything else None, parts, 1)
    results = torch.library.opcheck(torch.ops.sign_ext.smooth, arguments)
    assert set(results.values()) == {"SUCCESS"}
    other = torch.zeros_like(g) if everything else None
    arguments = (g, steps, torch.zeros_like(g), parts, other, 1)
    results = torch.library.opcheck(torch.ops.sign_ext.smooth_backward, arguments)
    assert set(results.values()) == {"SUCCESS"}


@needs_native
def test_fake_tensors_are_refused_or_left_alone():
    with FakeTensorMode():
        x, steps = torch.empty(3, 8), torch.empty(3, 8, dtype=torch.int16)
        smooth(x, x, steps, function=SmoothFunction.SILU)
        smooth_backward(x, steps, x, function=SmoothFunction.SILU)
        with pytest.raises(RuntimeError, match="out must have x's shape"):
            smooth(x, x[:1], steps, function=SmoothFunction.SILU)


@needs_native
@pytest.mark.parametrize("shape", [(0,), (0, 5), (0, 8, 4, 4)])
def test_empty_batches(shape):
    x = channels_last(torch.empty(shape))
    steps = torch.empty_like(x, dtype=torch.int16)
    smooth(x, x, steps, function=SmoothFunction.GELU)
    smooth_backward(x, steps, x, function=SmoothFunction.GELU)
