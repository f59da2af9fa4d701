"""What the tests of smooth and smooth_backward share on every device."""

from __future__ import annotations

import math

import torch
from tensors import assert_native_route, channels_last, normal, poisoned
from torch import Tensor
from torch.nn import functional as F

from sign_ext.ops.smooth import SmoothFunction, smooth, smooth_backward

# Of the value. The derivative is off by half a step of its code besides.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2**-8, torch.float64: 1e-12}
# Independent definitions, which autograd differentiates.
DEFINITIONS = {
    SmoothFunction.SILU: lambda x: x / (1 + torch.exp(-x)),
    SmoothFunction.GELU: lambda x: x * torch.special.ndtr(x),
    SmoothFunction.GELU_TANH: lambda x: (
        0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    SmoothFunction.HARDSWISH: lambda x: x * F.relu6(x + 3) / 6,
    SmoothFunction.HARDSIGMOID: lambda x: F.relu6(x + 3) / 6,
    SmoothFunction.MISH: lambda x: x * torch.tanh(torch.log1p(torch.exp(x))),
}


def draw(
    generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype, device: str
) -> Tensor:
    """Values in which every function bends, and some far outside."""
    x = 3 * torch.randn(shape, generator=generator)
    x[torch.rand(shape, generator=generator) < 0.1] *= 10
    x[torch.rand(shape, generator=generator) < 0.05] = 0.0
    return channels_last(x.to(dtype).to(device))


def exact(function: SmoothFunction, x: Tensor) -> tuple[Tensor, Tensor]:
    """The value and the derivative of the definition, in float64 on the CPU."""
    leaf = x.detach().cpu().double().requires_grad_()
    value = DEFINITIONS[function](leaf)
    (slope,) = torch.autograd.grad(value.sum(), leaf)
    # The definitions' own derivatives are not a number where exp overflows: the limits are 0 and 1.
    return value.detach(), torch.where(slope.isnan(), (leaf > 0).double(), slope)


def largest_error(function: SmoothFunction, *, fine: bool) -> float:
    """Of a stored derivative, rounding of its arithmetic apart."""
    return (1 / 256 if fine else 0.5) / function.steps[0]


def check_smooth(
    generator: torch.Generator,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    function: SmoothFunction,
    *,
    fine: bool = False,
    in_place: bool = False,
    other: bool = False,
    onto: str = "fresh",
    device: str = "cpu",
) -> None:
    """Run both operators and compare with the definition and its autograd in float64.

    Args:
        generator: draws the problem, on the CPU.
        shape: x's shape.
        dtype: of x and g.
        function: the activation.
        fine: whether the derivative has a fraction.
        in_place: whether out is x.
        other: whether another cotangent is added.
        onto: "fresh", "g" or "other": where the cotangent goes.
        device: where it runs.
    """
    x = draw(generator, shape, dtype, device)
    value, slope = exact(function, x)
    out = x if in_place else poisoned(shape, dtype, device)
    steps = poisoned(shape, torch.int16, device)
    assert_native_route(x, device)
    fraction = poisoned(shape, torch.uint8, device) if fine else None
    smooth(x, out, steps, fraction, function=function)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(out.cpu().double(), value, rtol=tolerance, atol=tolerance)
    parts = None if fraction is None else fraction.cpu()
    stored = function.decode(steps.cpu(), parts, torch.float64)
    most = largest_error(function, fine=fine) + 2e-6
    assert not ((stored - slope).abs() > most).any()

    g = normal(generator, shape, dtype, device)
    more = normal(generator, shape, dtype, device) if other else None
    wanted = g.cpu().double() * stored + (0 if more is None else more.cpu().double())
    target = {"g": g, "other": more}.get(onto)
    target = poisoned(shape, dtype, device) if target is None else target
    smooth_backward(g, steps, target, fraction, other=more, function=function)
    torch.testing.assert_close(target.cpu().double(), wanted, rtol=tolerance, atol=tolerance)
