"""What the tests of masked_cotangent share on every device."""

from __future__ import annotations

from typing import Any

import torch
from activate_checks import LEAKY
from tensors import (
    TOLERANCE,
    around_bounds,
    assert_native_route,
    channels_last,
    poisoned,
    random_mask,
)

from sign_ext.ops.activate import activate
from sign_ext.ops.activation import Piecewise, mask_shape
from sign_ext.ops.masked_cotangent import masked_cotangent


def check_masked_cotangent(
    generator: torch.Generator,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    *,
    mask: bool = True,
    slope: float = 0.0,
    scale: bool = False,
    other: bool = False,
    onto: str = "fresh",
    device: str = "cpu",
) -> None:
    """Run the operator and compare with the reference in float64.

    Args:
        generator: draws the problem, on the CPU.
        shape: g's shape.
        dtype: of g, out and other.
        mask: whether there is one.
        slope: the slope.
        scale: whether there is one.
        other: whether there is one.
        onto: "fresh", "g" or "other": what out is.
        device: where it runs.
    """
    g = around_bounds(generator, shape, dtype, device)
    options: dict[str, Any] = {}
    if mask:
        options["mask"] = random_mask(generator, shape, device)
    if scale:
        options["scale"] = torch.randn(shape[1], generator=generator).to(device)
    if other:
        options["other"] = around_bounds(generator, shape, dtype, device)
    wide = {name: value if name == "mask" else value.double() for name, value in options.items()}
    expected = torch.empty(shape, dtype=torch.float64, device=device)
    masked_cotangent.reference(g.double(), expected, slope=slope, **wide)

    out = {"g": g, "other": options.get("other")}.get(onto)
    if out is None:
        out = poisoned(shape, dtype, device)
    assert_native_route(g, device)
    masked_cotangent(g, out, slope=slope, **options)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(
        out.double(), expected, rtol=tolerance, atol=8 * tolerance, equal_nan=True
    )


def check_against_autograd(
    generator: torch.Generator,
    shape: tuple[int, ...],
    activation: Piecewise,
    dtype: torch.dtype,
    device: str = "cpu",
) -> None:
    """Pull back what `activate` did, and compare with autograd of the same expression.

    Args:
        generator: draws the problem, on the CPU.
        shape: x's shape.
        activation: the activation.
        dtype: float32, or float64 for the reference.
        device: where it runs.
    """
    x = channels_last(torch.randn(shape, generator=generator, dtype=dtype).to(device))
    cotangents = [
        channels_last(torch.randn(shape, generator=generator, dtype=dtype).to(device))
        for _ in range(2)
    ]
    scale, bias = (torch.randn(shape[1], generator=generator).to(device, dtype) for _ in range(2))
    leaf = x.clone().requires_grad_()
    per_channel = (1, -1) + (1,) * (x.dim() - 2)
    v = leaf * scale.view(per_channel) + bias.view(per_channel)
    y = (
        torch.nn.functional.leaky_relu(v, activation.slope)
        if activation.slope
        else v.clamp(activation.low, activation.high)
    )
    (y * cotangents[0] + y * cotangents[1]).sum().backward()
    assert leaf.grad is not None

    out, mask = torch.empty_like(x), torch.empty(mask_shape(shape), dtype=torch.uint8).to(device)
    activate(x, out, activation=activation, scale=scale, bias=bias, mask=mask)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(out, y.detach(), rtol=tolerance, atol=tolerance)
    g, other = cotangents
    masked_cotangent(g, g, mask=mask, slope=activation.slope, scale=scale, other=other)
    torch.testing.assert_close(g, leaf.grad, rtol=4 * tolerance, atol=4 * tolerance)


AUTOGRAD_ACTIVATIONS = [Piecewise(low=0.0), Piecewise(-0.5, 1.0), LEAKY, Piecewise()]
