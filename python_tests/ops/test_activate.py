"""activate and pack_mask against their reference in float64, on every route, dtype and size."""

from __future__ import annotations

import math

import pytest
import torch
from activate_checks import ACTIVATIONS, DTYPES, LEAKY, check_activate, check_pack_mask, shapes
from hypothesis import given
from hypothesis import strategies as st
from tensors import around_bounds, channels_last, needs_native
from torch._subclasses.fake_tensor import FakeTensorMode

from sign_ext.ops import native
from sign_ext.ops.activate import activate, pack_mask
from sign_ext.ops.activation import IDENTITY, RELU, RELU6, Piecewise, mask_shape, unpack_bits


@given(
    shape=shapes,
    dtypes=st.sampled_from(DTYPES),
    activation=st.sampled_from(ACTIVATIONS),
    scale=st.booleans(),
    bias=st.booleans(),
    residual=st.booleans(),
    mask=st.booleans(),
    onto=st.sampled_from(["fresh", "x", "residual"]),
    numbers=st.integers(0, 2**32 - 1),
)
def test_any_size_dtype_and_combination(
    shape, dtypes, activation, scale, bias, residual, mask, onto, numbers
):
    check_activate(
        torch.Generator().manual_seed(numbers),
        shape,
        dtypes,
        activation,
        scale=scale,
        bias=bias,
        residual=residual,
        mask=mask,
        onto=onto,
    )


@given(
    shape=shapes,
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    activation=st.sampled_from(ACTIVATIONS),
    numbers=st.integers(0, 2**32 - 1),
)
def test_pack_mask_of_any_size(shape, dtype, activation, numbers):
    check_pack_mask(torch.Generator().manual_seed(numbers), shape, dtype, activation)


@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("channels", [24, 33])
def test_more_rows_than_one_thread_is_given(dtypes, channels, torch_rng):
    check_activate(
        torch_rng, (9, channels, 31, 33), dtypes, RELU6, scale=True, bias=True, residual=True
    )
    check_pack_mask(torch_rng, (9, channels, 31, 33), dtypes[1], RELU6)


@pytest.mark.parametrize("run", [activate, activate.reference])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_are_autograds_derivative(run, dtype, torch_rng):
    x = around_bounds(torch_rng, (2, 11, 3, 4), dtype, "cpu")
    for activation, module in [
        (RELU, torch.nn.ReLU()),
        (RELU6, torch.nn.ReLU6()),
        (Piecewise(-1.0, 1.0), torch.nn.Hardtanh()),
        (Piecewise(slope=0.25), torch.nn.LeakyReLU(0.25)),
    ]:
        leaf = x.clone().requires_grad_()
        module(leaf).sum().backward()
        out, mask = torch.empty_like(x), torch.empty(mask_shape(x.shape), dtype=torch.uint8)
        run(x, out, activation=activation, mask=mask)
        passes = unpack_bits(mask, x.shape)
        slope = activation.slope
        ours = torch.where(passes, 1.0, slope)
        # At NaN PyTorch's hardtanh differs between vectorized elements and the remainder.
        compared = ~x.isnan() | (activation == RELU or slope > 0)
        assert torch.equal(ours[compared], leaf.grad.float()[compared])


@pytest.mark.parametrize("run", [activate, activate.reference])
def test_bits_agree_with_what_was_rounded(run):
    # 5.999 is 6 in bfloat16, and 0.303 is no bfloat16 value: what is stored is on the bound.
    x = torch.tensor([[5.999, 5.9, 7.0]])
    out, mask = torch.empty(1, 3, dtype=torch.bfloat16), torch.empty(1, 1, dtype=torch.uint8)
    run(x, out, activation=RELU6, mask=mask)
    assert out.tolist() == [[6.0, 5.90625, 6.0]]
    assert mask.tolist() == [[0b010]]
    run(x - 5.9, out, activation=Piecewise(0.0, 0.303), mask=mask)
    assert out[0, 2].item() < 0.303
    assert mask.tolist() == [[0b001]]


def test_the_sign_of_zero_survives():
    x = torch.tensor([[-0.0, 0.0]]).expand(1, 2).contiguous()
    out = torch.empty_like(x)
    activate(x, out, scale=torch.ones(2))
    assert out.signbit().tolist() == [[True, False]]


@needs_native
@pytest.mark.parametrize("shape", [(0, 5), (0, 16), (0, 8, 4, 4), (2, 8, 0, 4)])
def test_empty_batches(shape):
    x = channels_last(torch.empty(shape))
    mask = torch.empty(mask_shape(shape), dtype=torch.uint8)
    activate(x, x, activation=RELU, bias=torch.ones(shape[1]), mask=mask)
    pack_mask(x, mask, RELU)


def test_other_dtypes_and_layouts_run_on_torch(torch_rng):
    x = torch.randn(2, 3, 4, 5, generator=torch_rng, dtype=torch.float64)
    out, mask = torch.empty_like(x), torch.empty(mask_shape(x.shape), dtype=torch.uint8)
    activate(x, out, activation=LEAKY, mask=mask)
    assert torch.equal(out, torch.where(x > 0, x, x * 0.1))
    assert torch.equal(unpack_bits(mask, x.shape), x > 0)
    again = torch.empty_like(mask)
    pack_mask(out, again, LEAKY)
    assert torch.equal(mask, again)
    half = x.half()
    activate(half, half, bias=torch.ones(3))
    assert torch.equal(half, (x.half().float() + 1).half())


def test_without_an_extension_the_reference_runs(monkeypatch, torch_rng):
    monkeypatch.setattr(native, "NATIVE", native.Native(None, "left out for this test"))
    x = torch.randn(3, 9, generator=torch_rng)
    out, mask = torch.empty_like(x), torch.empty(mask_shape(x.shape), dtype=torch.uint8)
    activate(x, out, activation=RELU, mask=mask)
    assert torch.equal(out, x.relu())
    assert torch.equal(unpack_bits(mask, x.shape), x > 0)


@needs_native
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(8)}, r"x must be \(N, C\) or \(N, C, H, W\)"),
        ({"x": torch.zeros(2, 3, 4, 5)}, "x must be dense with its channels innermost"),
        ({"out": torch.zeros(2, 9)}, "out must have x's shape"),
        ({"out": torch.zeros(2, 8, dtype=torch.float64)}, "out must be float32 or bfloat16"),
        ({"out": torch.zeros(8, 2).t()}, "out must be dense"),
        ({"out": torch.zeros(2, 8, device="meta")}, "out must be on x's device"),
        (
            {"x": torch.zeros(2, 8, dtype=torch.bfloat16)},
            "out must have x's dtype, or be bfloat16",
        ),
        ({"scale": torch.zeros(7)}, "scale must be 8 contiguous float32 values"),
        ({"bias": torch.zeros(8, dtype=torch.float64)}, "bias must be 8 contiguous float32"),
        ({"residual": torch.zeros(2, 7)}, "residual must have x's shape"),
        (
            {"residual": torch.zeros(2, 8, dtype=torch.bfloat16)},
            "residual must have out's dtype",
        ),
        ({"mask": torch.zeros(2, 2, dtype=torch.uint8)}, r"mask must be .* of shape \(2, 1\)"),
        ({"mask": torch.zeros(2, 1)}, "mask must be contiguous uint8"),
        ({"activation": Piecewise(slope=-0.1)}, "slope must not be negative"),
        ({"activation": Piecewise(low=math.nan)}, "low and high must be numbers"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, message):
    arguments = {"x": torch.ones(2, 8), "out": torch.zeros(2, 8)} | change
    x, out = arguments.pop("x"), arguments.pop("out")
    with pytest.raises(RuntimeError, match=f"activate: {message}"):
        activate(x, out, **arguments)
    if not out.is_meta:
        assert not out.any()


@needs_native
def test_memory_may_be_shared_wholly_or_not_at_all():
    memory = torch.zeros(48)
    x, shifted = memory[:32].view(4, 8), memory[8:40].view(4, 8)
    with pytest.raises(RuntimeError, match="out shares memory with x without being the same"):
        activate(x, shifted)
    with pytest.raises(RuntimeError, match="out shares memory with residual without"):
        activate(torch.zeros(4, 8), shifted, residual=x)
    with pytest.raises(RuntimeError, match="out shares memory with x without being the same"):
        activate(x, memory.view(torch.bfloat16)[:32].view(4, 8))
    bits = memory.view(torch.uint8)[:4].view(4, 1)
    with pytest.raises(RuntimeError, match="mask shares memory with out"):
        activate(torch.zeros(4, 8), x, mask=bits)
    with pytest.raises(RuntimeError, match="mask shares memory with y"):
        pack_mask(x, bits, RELU)


@needs_native
def test_pack_mask_refuses_by_name():
    mask = torch.zeros(2, 1, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="pack_mask: y must be dense"):
        pack_mask(torch.zeros(8, 2).t(), mask, RELU)
    with pytest.raises(RuntimeError, match="pack_mask: mask must be contiguous uint8"):
        pack_mask(torch.zeros(3, 8), mask, RELU)
    with pytest.raises(RuntimeError, match="pack_mask: slope must not be negative"):
        pack_mask(torch.zeros(2, 8), mask, Piecewise(slope=-1.0))


def test_the_reference_refuses_by_name():
    x, mask = torch.zeros(2, 8), torch.zeros(1, 1, dtype=torch.uint8)
    with pytest.raises(ValueError, match="out must have x's shape"):
        activate.reference(x, torch.zeros(3, 8))
    with pytest.raises(ValueError, match="residual must have x's shape"):
        activate.reference(x, x, residual=torch.zeros(1, 8))
    with pytest.raises(ValueError, match=r"mask must have shape \(2, 1\)"):
        pack_mask.reference(x, mask, RELU)
    with pytest.raises(ValueError, match="slope must not be negative"):
        pack_mask.reference(x, mask, Piecewise(slope=-1.0))


@needs_native
@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("everything", [False, True])
def test_opcheck(dtypes, everything, torch_rng):
    x = around_bounds(torch_rng, (2, 9, 3, 4), dtypes[0], "cpu")
    out = torch.zeros_like(x, dtype=dtypes[1])
    mask = torch.zeros(mask_shape(x.shape), dtype=torch.uint8)
    constants = [torch.ones(9), torch.ones(9), torch.ones_like(out), mask]
    arguments = (x, out, *(constants if everything else [None] * 4), *RELU6)
    results = torch.library.opcheck(torch.ops.sign_ext.activate, arguments)
    assert set(results.values()) == {"SUCCESS"}
    results = torch.library.opcheck(torch.ops.sign_ext.pack_mask, (out, mask, *RELU6))
    assert set(results.values()) == {"SUCCESS"}


@needs_native
def test_fake_tensors_are_refused_or_left_alone():
    with FakeTensorMode():
        x, out = torch.empty(3, 8), torch.empty(3, 8, dtype=torch.bfloat16)
        activate(x, out, activation=IDENTITY)
        assert out.shape == (3, 8)
        with pytest.raises(RuntimeError, match="out must have x's shape"):
            activate(x, out[:1])
