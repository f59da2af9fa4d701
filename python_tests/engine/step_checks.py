"""A bound step against float64 autograd, as near as eager PyTorch comes at equal precision."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sign_ext.compiler.build import compile_phi
from sign_ext.computing import computing
from sign_ext.engine.fused.step import Step, activation_dtype
from sign_ext.phi import Phi, SourceLayer
from sign_ext.source_layer import find_source_layer


def eager_delta(model: nn.Module, images: Tensor, source: SourceLayer, precision: str) -> Tensor:
    """autograd's δ at a precision."""
    with computing(model, precision):
        x = images.clone().requires_grad_()
        wanted = precision == "bfloat16"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=wanted):
            value = Phi(model, source)(x)
        (delta,) = torch.autograd.grad(value, x, torch.ones_like(value))
    return delta


def bound_step(
    model: nn.Module, images: Tensor, source: SourceLayer, precision: str = "float32"
) -> Step:
    """The compiled step for a batch."""
    with computing(model, precision):
        program = compile_phi(Phi(model, source), images[:1])
        with torch.no_grad():
            dtype = activation_dtype(images.dtype, precision)
            return Step(program, dtype, images.device, len(images))


def step_delta(
    model: nn.Module, images: Tensor, source: SourceLayer, precision: str = "float32"
) -> Tensor:
    """The compiled step's δ."""
    step = bound_step(model, images, source, precision)
    with computing(model, precision), torch.no_grad():
        return step.delta(images.to(memory_format=torch.channels_last))


def errors(
    model: nn.Module,
    images: Tensor,
    precision: str = "float32",
    source: SourceLayer | None = None,
) -> tuple[float, float]:
    """Relative L2 errors of δ, ours and eager PyTorch's, against float64 autograd."""
    model = model.eval().requires_grad_(False)
    with computing(model):
        source = source or find_source_layer(model, images[:1])
    exact = eager_delta(copy.deepcopy(model).double(), images.double(), source, "float32")
    size = exact.norm()
    ours = (step_delta(model, images, source, precision).double() - exact).norm() / size
    eager = (eager_delta(model, images, source, precision).double() - exact).norm() / size
    return float(ours), float(eager)


def within(ours: float, eager: float) -> bool:
    """Whether our error is as small as can be asked for, NaN never."""
    return ours <= max(1e-5, 3 * eager)


def check(model: nn.Module, images: Tensor, precision: str = "float32") -> None:
    ours, eager = errors(model, images, precision)
    assert within(ours, eager), f"{ours:.2e}, eager {eager:.2e}"
    assert ours < 0.5  # the bound above says nothing where eager itself is wrong


def check_median(draws: list[tuple[nn.Module, Tensor]], precision: str = "float32") -> None:
    """The bound for the median of some draws of a deep network.

    One pre-activation whose sign rounding decides moves δ by a thousandth, in our arithmetic or in
    eager's; a mistake moves every draw.
    """
    found = [errors(model, images, precision) for model, images in draws]
    ours, eager = (sorted(column)[len(column) // 2] for column in zip(*found, strict=True))
    assert within(ours, eager), f"{found}"
    assert max(error for error, _ in found) < 0.5
