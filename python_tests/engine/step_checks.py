"""A bound step against float64 autograd, as near as eager PyTorch comes at equal precision."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sign_ext.compiler.build import compile_phi
from sign_ext.engine.fused.step import Step, activation_dtype
from sign_ext.engine.trajectory import compiled_layout
from sign_ext.eval_state import computing
from sign_ext.source_layer import Phi, SourceLayer, find_source_layer


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


def delta_of(step: Step, model: nn.Module, images: Tensor, precision: str = "float32") -> Tensor:
    """A compiled step's δ."""
    with computing(model, precision), torch.no_grad():
        return step.delta(images.to(memory_format=compiled_layout(images)))


def step_delta(
    model: nn.Module, images: Tensor, source: SourceLayer, precision: str = "float32"
) -> Tensor:
    """δ of the network, compiled afresh."""
    return delta_of(bound_step(model, images, source, precision), model, images, precision)


def errors_of_batches(
    model: nn.Module,
    batches: list[Tensor],
    precision: str = "float32",
    source: SourceLayer | None = None,
) -> list[tuple[float, float]]:
    """For each batch, relative L2 errors of δ, ours and eager PyTorch's, against float64 autograd.

    The network is compiled once.
    """
    model = model.eval().requires_grad_(False)
    with computing(model):
        source = source or find_source_layer(model, batches[0][:1])
    double = copy.deepcopy(model).double()
    step = bound_step(model, batches[0], source, precision)
    found = []
    for images in batches:
        exact = eager_delta(double, images.double(), source, "float32")
        ours = delta_of(step, model, images, precision).double() - exact
        eager = eager_delta(model, images, source, precision).double() - exact
        found.append((float(ours.norm() / exact.norm()), float(eager.norm() / exact.norm())))
    return found


def errors(
    model: nn.Module,
    images: Tensor,
    precision: str = "float32",
    source: SourceLayer | None = None,
) -> tuple[float, float]:
    """The same for one batch."""
    return errors_of_batches(model, [images], precision, source)[0]


def within(ours: float, eager: float) -> bool:
    """Whether our error is as small as can be asked for, NaN never."""
    return ours <= max(1e-5, 3 * eager)


def check(model: nn.Module, images: Tensor, precision: str = "float32") -> None:
    ours, eager = errors(model, images, precision)
    assert within(ours, eager), f"{ours:.2e}, eager {eager:.2e}"
    assert ours < 0.5  # the bound above says nothing where eager itself is wrong


def check_median(model: nn.Module, batches: list[Tensor], precision: str = "float32") -> None:
    """The bound for the median of some batches, on a deep network.

    One pre-activation whose sign rounding decides moves δ by a thousandth, in our arithmetic or in
    eager's; a mistake moves every batch.
    """
    found = errors_of_batches(model, batches, precision)
    ours, eager = (sorted(column)[len(column) // 2] for column in zip(*found, strict=True))
    assert within(ours, eager), f"{found}"
    assert max(error for error, _ in found) < 0.5
