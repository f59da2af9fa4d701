"""sign_update_ against its formula in float64 numpy, on every route, layout and dtype."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sign_update_checks import (
    DELTA_TYPES,
    ORDERS,
    assert_matches,
    check_the_report,
    check_the_watch,
    formula,
    laid_out,
    problem,
)
from tensors import needs_native
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sign_ext.ops import native, sign_update_, sign_update_reference_, sign_update_route


@given(
    shape=st.tuples(*[st.integers(1, 9)] * 4),
    order=st.sampled_from(ORDERS),
    offsets=st.tuples(*[st.integers(0, 8)] * 3),
    dtype=st.sampled_from(DELTA_TYPES),
    with_velocity=st.booleans(),
    step_size=st.floats(-100, 100, width=32),
    momentum=st.floats(0, 1, width=32),
    clamp_min=st.none() | st.floats(-50, 50, width=32),
    clamp_max=st.none() | st.floats(50, 300, width=32),
    numbers=st.integers(0, 2**32 - 1),
)
def test_any_size_layout_alignment_and_dtype(
    shape, order, offsets, dtype, with_velocity, step_size, momentum, clamp_min, clamp_max, numbers
):
    generator = torch.Generator().manual_seed(numbers)
    values = problem(generator, shape)
    p, delta, velocity = (
        laid_out(shape, order, offset).copy_(value)
        for offset, value in zip(offsets, values, strict=True)
    )
    if dtype != torch.float32:  # a 16-bit tensor with the same strides and its own alignment
        delta = laid_out(shape, order, offsets[1]).to(dtype).copy_(values[1])
    if native.NATIVE.loaded:
        assert sign_update_route(p, delta, velocity) == "native-cpu"
    assert_matches(
        sign_update_,
        p,
        delta,
        velocity if with_velocity else None,
        step_size=step_size,
        momentum=momentum,
        clamp_min=clamp_min,
        clamp_max=clamp_max,
    )


@pytest.mark.parametrize("update", [sign_update_, sign_update_reference_])
@pytest.mark.parametrize("dtype", [*DELTA_TYPES, torch.float64])
@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
def test_both_ways_agree_with_the_formula(update, dtype, wide, torch_rng):
    p, delta, velocity = problem(torch_rng, dtype=dtype)
    if wide:
        p, velocity = p.double(), velocity.double()
    assert_matches(
        update, p, delta, velocity, step_size=0.3, momentum=0.9, clamp_min=10.0, clamp_max=200.0
    )


@pytest.mark.parametrize("update", [sign_update_, sign_update_reference_])
@pytest.mark.parametrize("dtype", DELTA_TYPES)
def test_steps_are_watched_and_counted(update, dtype):
    check_the_report(update, "cpu", dtype)


@pytest.mark.parametrize("update", [sign_update_, sign_update_reference_])
@pytest.mark.parametrize("dtype", DELTA_TYPES)
@pytest.mark.parametrize("with_velocity", [False, True])
@pytest.mark.parametrize("shape", [(1,), (3, 3, 5, 7), (7, 3, 101, 103)])
def test_the_watch_is_of_all_elements(update, dtype, with_velocity, shape, torch_rng):
    p, delta, velocity = problem(torch_rng, shape, dtype)
    options = {"step_size": -0.7, "momentum": 0.9, "clamp_max": 30.0}
    check_the_watch(update, p, delta, velocity if with_velocity else None, **options)


def test_nothing_is_counted_where_there_are_no_elements():
    p, watch = torch.zeros(0, 3), torch.ones(2)
    for update in (sign_update_, sign_update_reference_):
        counts = torch.zeros(3, dtype=torch.int32)
        update(p, p.clone(), watch=watch, counts=counts)
        assert (watch.tolist(), counts.tolist()) == ([1.0, 1.0], [0, 0, 0])


def test_a_report_that_does_not_fit_is_refused():
    p, delta, counts = torch.zeros(4), torch.ones(4), torch.zeros(3, dtype=torch.int32)
    for update in (sign_update_, sign_update_reference_):
        with pytest.raises(ValueError, match="counts need a watch"):
            update(p, delta, counts=counts)
        with pytest.raises(ValueError, match="watch must have 2"):
            update(p, delta, watch=torch.zeros(3))
        with pytest.raises(ValueError, match="counts must be 3 int32"):
            update(p, delta, watch=torch.zeros(2), counts=counts.long())
    assert not p.any()


@needs_native
def test_a_report_in_ps_memory_is_refused():
    p, delta = torch.zeros(4), torch.ones(4)
    with pytest.raises(RuntimeError, match="watch shares memory with p"):
        sign_update_(p, delta, watch=p[:2])
    with pytest.raises(RuntimeError, match="counts shares memory with p"):
        sign_update_(p, delta, watch=torch.zeros(2), counts=p[1:].view(torch.int32))
    assert not p.any()


def test_more_elements_than_one_thread_is_given(torch_rng):
    p, delta, velocity = problem(torch_rng, (7, 3, 101, 103))
    assert_matches(sign_update_, p, delta, velocity, step_size=2.0, momentum=0.5, clamp_max=255.0)


def test_several_steps_accumulate_the_velocity(torch_rng):
    p, _, velocity = problem(torch_rng)
    velocity.zero_()
    wide_p, wide_v = p.double().numpy(), velocity.double().numpy()
    for _ in range(5):
        delta = torch.randn(p.shape, generator=torch_rng)
        wide_v = 0.9 * wide_v + delta.double().numpy()
        wide_p = wide_p + 0.7 * wide_v
        sign_update_(p, delta, velocity, step_size=0.7, momentum=0.9)
    np.testing.assert_allclose(p.double().numpy(), wide_p, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("update", [sign_update_, sign_update_reference_])
def test_nan_passes_the_clamp_and_infinity_does_not(update):
    nan, inf = float("nan"), float("inf")
    p = torch.tensor([nan, 0.0, inf, -inf, 5.0])
    delta = torch.tensor([0.0, nan, 0.0, 0.0, 0.0])
    update(p, delta, clamp_min=-1.0, clamp_max=1.0)
    assert torch.equal(p.isnan(), torch.tensor([True, True, False, False, False]))
    assert p[2:].tolist() == [1.0, -1.0, 1.0]


@pytest.mark.parametrize("update", [sign_update_, sign_update_reference_])
def test_crossed_bounds_give_the_upper_one(update):
    p = torch.tensor([-5.0, 0.0, 5.0])
    update(p, torch.zeros(3), clamp_min=2.0, clamp_max=1.0)
    assert p.tolist() == torch.tensor([-5.0, 0.0, 5.0]).clamp(2.0, 1.0).tolist() == [1.0] * 3


@pytest.mark.parametrize("shape", [(0,), (0, 3, 5, 7), ()])
def test_empty_and_scalar_tensors(shape):
    p = torch.full(shape, 2.0)
    sign_update_(p, torch.ones(shape), torch.ones(shape), momentum=0.5)
    assert torch.equal(p, torch.full(shape, 3.5))


def test_layouts_that_differ_run_on_torch_and_are_right(torch_rng):
    p, delta, velocity = problem(torch_rng)
    p = p.contiguous(memory_format=torch.channels_last)
    assert sign_update_route(p, delta).startswith("torch: ")
    assert_matches(sign_update_, p, delta, velocity, step_size=2.0, momentum=0.5)
    assert_matches(sign_update_, p, torch.tensor(1.5).expand(p.shape), None)  # a constant δ
    assert_matches(sign_update_, p[:, :, ::2], delta[:, :, ::2], None)


@needs_native
def test_the_route_is_named_with_its_reason():
    p = torch.zeros(2, 3, 4, 5)
    last = p.contiguous(memory_format=torch.channels_last)
    assert sign_update_route(p, p.clone()) == "native-cpu"
    assert sign_update_route(last, last.clone().bfloat16(), last.clone()) == "native-cpu"
    assert "float64" in sign_update_route(p.double(), p)
    assert "delta is float64" in sign_update_route(p, p.double())
    assert "p and delta have different strides" in sign_update_route(p, last)
    assert "p and velocity have different strides" in sign_update_route(p, p.clone(), last)
    assert "not dense" in sign_update_route(p[..., ::2], p[..., ::2])
    assert "meta" in sign_update_route(p.to("meta"), p.to("meta"))


def test_the_fallback_is_used_and_named_where_nothing_is_built(monkeypatch, torch_rng):
    monkeypatch.setattr(native, "NATIVE", native.Native(None, "left out for this test"))
    p, delta, velocity = problem(torch_rng)
    assert sign_update_route(p, delta) == "torch: left out for this test"
    assert_matches(sign_update_, p, delta, velocity, step_size=0.5, momentum=0.9)


@pytest.mark.parametrize("update", [sign_update_, sign_update_reference_])
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: (p.half(), p, None), TypeError, "p is float16"),
        (lambda p: (p.int(), p, None), TypeError, "p is int32"),
        (lambda p: (p, p.int(), None), TypeError, "delta is int32"),
        (lambda p: (p, p.clone(), p.double()), TypeError, "velocity is float64"),
        (lambda p: (p, p[:1].clone(), None), ValueError, "delta has shape"),
        (lambda p: (p, p.clone(), p[:1].clone()), ValueError, "velocity has shape"),
        (lambda p: (p, p.to("meta"), None), ValueError, "delta is on meta"),
        (lambda p: (p[:1].expand(4, 5), p.clone(), None), ValueError, "p has elements that share"),
        (lambda p: (p, p, None), ValueError, "delta shares memory with p"),
        (lambda p: (p, p.view(4, 5), None), ValueError, "delta shares memory with p"),
        (lambda p: (p, p.clone(), p), ValueError, "velocity shares memory with p"),
        (
            lambda p: (lambda b: (b[:4], b[2:6], None))(torch.zeros(6, 5)),
            ValueError,
            "delta shares memory with p",
        ),
        (lambda p: (p, (d := p.clone()), d), ValueError, "velocity shares memory with delta"),
        (lambda p: (p, p.clone().requires_grad_(), None), RuntimeError, "delta requires grad"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_touched(update, make, error, message):
    p, delta, velocity = make(torch.arange(20.0).view(4, 5))
    before = p.clone()
    with pytest.raises(error, match=message):
        update(p, delta, velocity, step_size=3.0)
    assert torch.equal(p, before)


@pytest.mark.parametrize("bound", ["clamp_min", "clamp_max"])
def test_nan_bounds_are_refused(bound):
    with pytest.raises(ValueError, match=f"{bound} is NaN"):
        sign_update_(torch.zeros(3), torch.ones(3), **{bound: float("nan")})


def test_autograd_notices_that_p_has_changed():
    weight = torch.ones(3, requires_grad=True)
    p, velocity = torch.ones(3), torch.zeros(3)
    product = weight * p  # keeps p for the backward pass
    before = velocity._version
    sign_update_(p, torch.ones(3), velocity)
    assert velocity._version > before
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_inference_tensors_and_requires_grad_under_no_grad():
    with torch.inference_mode():
        p = torch.zeros(5)
        sign_update_(p, torch.ones(5))
        assert p.tolist() == [1.0] * 5
    leaf = torch.zeros(5, requires_grad=True)
    with torch.no_grad():
        sign_update_(leaf, torch.ones(5))
    assert leaf.tolist() == [1.0] * 5


@needs_native
@pytest.mark.parametrize("dtype", DELTA_TYPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("with_velocity", [False, True])
def test_opcheck(dtype, layout, with_velocity, torch_rng):
    tensors = problem(torch_rng, dtype=dtype)
    p, delta, velocity = (tensor.contiguous(memory_format=layout) for tensor in tensors)
    arguments = (p, delta, velocity if with_velocity else None, 0.5, 0.9, None, 200.0)
    results = torch.library.opcheck(torch.ops.sign_ext.sign_update_, arguments)
    assert set(results.values()) == {"SUCCESS"}


@needs_native
def test_the_operator_itself_refuses_what_the_wrapper_would_route_elsewhere():
    operator = torch.ops.sign_ext.sign_update_
    p = torch.zeros(2, 3, 4, 5)
    rest = (None, 1.0, 0.0, None, None)
    with pytest.raises(RuntimeError, match="p must be float32"):
        operator(p.double(), p, *rest)
    with pytest.raises(RuntimeError, match="delta must be float32, bfloat16 or float16"):
        operator(p, p.double(), *rest)
    with pytest.raises(RuntimeError, match="delta must have p's strides"):
        operator(p, p.contiguous(memory_format=torch.channels_last), *rest)
    with pytest.raises(RuntimeError, match="delta must have p's shape"):
        operator(p, p[:1].clone(), *rest)
    with pytest.raises(RuntimeError, match="p must be dense"):
        operator(torch.zeros(4, 8)[:, ::2], torch.ones(4, 8)[:, ::2], *rest)
    with pytest.raises(RuntimeError, match="p must be dense"):
        operator(torch.zeros(1, 5).expand(4, 5), torch.ones(1, 5).expand(4, 5), *rest)
    with pytest.raises(RuntimeError, match="share memory"):
        operator(p, p, *rest)
    with pytest.raises(RuntimeError, match="velocity shares memory"):
        operator(p, p + 1, p, 1.0, 0.0, None, None)
    with pytest.raises(RuntimeError, match="must be numbers"):
        operator(p, p + 1, None, 1.0, 0.0, float("nan"), None)
    assert not p.any()


@needs_native
def test_fake_tensors_take_the_native_route_and_stay_what_they_are():
    with FakeTensorMode():
        p, delta = torch.empty(3, 5), torch.empty(3, 5, dtype=torch.bfloat16)
        assert sign_update_route(p, delta) == "native-cpu"
        sign_update_(p, delta, torch.empty(3, 5), step_size=2.0)
        assert p.shape == (3, 5)
        with pytest.raises(RuntimeError, match="shapes must agree"):
            torch.ops.sign_ext.sign_update_(p, delta[:1], None, 1.0, 0.0, None, None)


@pytest.mark.parametrize("dynamic", [False, True])
def test_torch_compile_traces_it_whole(dynamic, torch_rng):
    def step(p: Tensor, x: Tensor, velocity: Tensor) -> Tensor:
        sign_update_(p, x * 2, velocity, step_size=0.5, momentum=0.9, clamp_max=250.0)
        return p + 1

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for shape in [(3, 5), (4, 7)]:
        p, x, velocity = problem(torch_rng, shape)
        expected, _ = formula(p, x * 2, velocity, 0.5, 0.9, None, 250.0)
        result = compiled(p, x, velocity)
        np.testing.assert_allclose(p.double().numpy(), expected, rtol=1e-6, atol=1e-4)
        torch.testing.assert_close(result, p + 1)
