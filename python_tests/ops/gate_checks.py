"""What the tests of position_sums and gate share on every device."""

from __future__ import annotations

import torch
from tensors import TOLERANCE, assert_native_route, normal, poisoned

from sign_ext.ops.gate import gate, position_sums


def check_position_sums(
    generator: torch.Generator,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    *,
    y: bool = False,
    factor: float = 0.75,
    device: str = "cpu",
) -> None:
    """Run the operator and compare with einsum in float64.

    Args:
        generator: draws the problem, on the CPU.
        shape: x's shape.
        dtype: of x and y.
        y: whether there is a second factor.
        factor: the factor.
        device: where it runs.
    """
    x = normal(generator, shape, dtype, device)
    more = normal(generator, shape, dtype, device) if y else None
    out = poisoned(shape[:2], torch.float32, device)
    assert_native_route(x, device)
    position_sums(x, out, y=more, factor=factor)
    second = torch.ones_like(x) if more is None else more
    wanted = factor * torch.einsum("nchw,nchw->nc", x.double(), second.double())
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-5 * shape[2] ** 0.5)


def check_gate(
    generator: torch.Generator,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    *,
    shift: bool = False,
    in_place: bool = False,
    device: str = "cpu",
) -> None:
    """Run the operator and compare with einsum in float64.

    Args:
        generator: draws the problem, on the CPU.
        shape: x's shape.
        dtype: of x and out.
        shift: whether there is one.
        in_place: whether out is x.
        device: where it runs.
    """
    x = normal(generator, shape, dtype, device)
    scale = normal(generator, shape[:2], torch.float32, device)
    more = normal(generator, shape[:2], torch.float32, device) if shift else None
    wanted = torch.einsum("nchw,nc->nchw", x.double(), scale.double())
    if more is not None:
        wanted += more.double()[:, :, None, None]
    out = x if in_place else poisoned(shape, dtype, device)
    gate(x, out, scale, shift=more)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(out.double(), wanted, rtol=tolerance, atol=8 * tolerance)
