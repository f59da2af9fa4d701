"""What the tests of max_pool share on every device."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pool_windows import Window, normal, poisoned

from sign_ext.ops import native
from sign_ext.ops.activate import pack_mask
from sign_ext.ops.activation import IDENTITY, RELU, RELU6, Piecewise, mask_shape
from sign_ext.ops.max_pool import index_shape, max_pool, unpack_index
from sign_ext.ops.native import route

ACTIVATIONS = [IDENTITY, RELU, RELU6, Piecewise(slope=0.1), Piecewise(-0.303, 0.707)]
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float64: 1e-12}


def check_max_pool(
    generator: torch.Generator,
    shape: tuple[int, ...],
    window: Window,
    dtype: torch.dtype,
    activation: Piecewise,
    *,
    bias: bool = True,
    mask: bool = True,
    nan: bool = True,
    run: Callable[..., None] = max_pool,
    device: str = "cpu",
) -> None:
    """Pool and compare with torch's own pooling in float64 on the CPU, and the bits with y.

    Args:
        generator: draws the problem, on the CPU.
        shape: x's shape.
        window: which windows.
        dtype: of x.
        activation: the activation.
        bias: whether there is one.
        mask: whether there is one.
        nan: whether some values are NaN.
        run: the operator, or its reference.
        device: where it runs.
    """
    x = normal(generator, shape, dtype, device)
    # Values that tie, and windows that are all -inf.
    x.copy_((x * 2).round() / 2)
    drawn = torch.rand(shape, generator=generator).to(device)
    x[drawn < 0.2] = -math.inf
    if nan:
        x[drawn > 0.97] = math.nan
    offset = torch.randn(shape[1], generator=generator) if bias else None

    value, position = window.max_pool(x.cpu().double())
    wide = value if offset is None else value + offset.double()[:, None, None]
    expected = activation.apply(wide)

    y = poisoned(tuple(value.shape), dtype, device)
    index = poisoned(index_shape(y.shape, window.kernel), torch.uint8, device)
    bits = poisoned(mask_shape(y.shape), torch.uint8, device) if mask else None
    if run is max_pool and native.NATIVE.loaded and dtype != torch.float64:
        assert route(x) == f"native-{device}"
    run(
        x,
        y,
        index,
        **window.options,
        bias=None if offset is None else offset.to(device),
        activation=activation,
        mask=bits,
    )
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(
        y.cpu().double(), expected, rtol=tolerance, atol=tolerance, equal_nan=True
    )
    assert torch.equal(unpack_index(index, y.shape).cpu(), position)
    behind = shape[1] % 8
    if behind:  # nothing but zeros behind the last channel
        last = index[:, -1].cpu().long() << 8 * torch.arange(index.shape[2])
        low = torch.full_like(last.sum(1), (1 << behind * index.shape[2]) - 1)
        assert not (last.sum(1) & ~low).any()
    if bits is not None:
        again = torch.empty_like(bits)
        pack_mask.reference(y, again, activation)
        assert torch.equal(bits, again)
