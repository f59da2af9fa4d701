"""What the tests of activate and pack_mask share on every device."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from tensors import TOLERANCE, around_bounds, assert_native_route, channels_last, poisoned

from sign_ext.ops.activate import activate, pack_mask
from sign_ext.ops.activation import IDENTITY, RELU, RELU6, Piecewise, mask_shape

LEAKY = Piecewise(slope=0.1)
# The last one's bounds are no bfloat16 values.
ACTIVATIONS = [IDENTITY, RELU, RELU6, LEAKY, Piecewise(-1.0, 1.0), Piecewise(-0.303, 0.707)]
# (x, out)
DTYPES = [
    (torch.float32, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.bfloat16),
]

shapes = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 70)),
    st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(1, 3), st.integers(500, 1100)),
)


def check_activate(
    generator: torch.Generator,
    shape: tuple[int, ...],
    dtypes: tuple[torch.dtype, torch.dtype],
    activation: Piecewise,
    *,
    scale: bool = False,
    bias: bool = False,
    residual: bool = False,
    mask: bool = True,
    onto: str = "fresh",
    device: str = "cpu",
) -> None:
    """Run the operator and compare with the reference in float64, and its bits with its values.

    Args:
        generator: draws the problem, on the CPU.
        shape: x's shape.
        dtypes: of x and of out.
        activation: the activation.
        scale: whether there is one.
        bias: whether there is one.
        residual: whether there is one.
        mask: whether there is one.
        onto: "fresh", "x" or "residual": what out is.
        device: where it runs.
    """
    x = around_bounds(generator, shape, dtypes[0], device)
    options: dict[str, Any] = {}
    if scale:
        options["scale"] = torch.randn(shape[1], generator=generator).to(device)
    if bias:
        options["bias"] = torch.randn(shape[1], generator=generator).to(device)
    if residual:
        options["residual"] = around_bounds(generator, shape, dtypes[1], device)
    wide = {name: None if value is None else value.double() for name, value in options.items()}
    expected = torch.empty(shape, dtype=torch.float64, device=device)
    activate.reference(x.double(), expected, activation=activation, **wide)

    bits = poisoned(mask_shape(shape), torch.uint8, device) if mask else None
    out = {"x": x, "residual": options.get("residual")}.get(onto)
    if out is None or out.dtype != dtypes[1]:
        out = poisoned(shape, dtypes[1], device)
    assert_native_route(x, device)
    activate(x, out, activation=activation, mask=bits, **options)
    tolerance = TOLERANCE[dtypes[1]]
    torch.testing.assert_close(
        out.double(), expected, rtol=tolerance, atol=8 * tolerance, equal_nan=True
    )
    if bits is None:
        return
    again = torch.empty_like(bits)
    pack_mask.reference(out, again, activation)
    assert torch.equal(bits, again)


def check_pack_mask(
    generator: torch.Generator,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    activation: Piecewise,
    device: str = "cpu",
) -> None:
    """Run pack_mask on an activation's value and compare with the reference.

    Args:
        generator: draws the problem, on the CPU.
        shape: y's shape.
        dtype: y's dtype.
        activation: the activation.
        device: where it runs.
    """
    y = channels_last(activation.apply(around_bounds(generator, shape, dtype, device)))
    bits, expected = (poisoned(mask_shape(shape), torch.uint8, device) for _ in range(2))
    before = y.clone()
    pack_mask(y, bits, activation)
    pack_mask.reference(y, expected, activation)
    assert torch.equal(bits, expected)
    torch.testing.assert_close(y, before, rtol=0, atol=0, equal_nan=True)
