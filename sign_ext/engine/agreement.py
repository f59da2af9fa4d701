"""How far one δ is from another, and whether a compiled δ is autograd's."""

from __future__ import annotations

import copy
import gc

import torch
from torch import Tensor

from sign_ext.compiler.build import build
from sign_ext.compiler.ir.program import Program
from sign_ext.compiler.trace import trace
from sign_ext.errors import UnsupportedOperation
from sign_ext.source_layer import Phi

# A compiled δ that is further than this from autograd's is not explained by rounding.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-2, torch.bfloat16: 0.3}


def relative_distance(got: Tensor, expected: Tensor) -> float:
    """Relative L2 distance; 0 where both are zero, and where `expected` is not finite.

    Args:
        got: any tensor.
        expected: of the same shape.

    Example:
        >>> relative_distance(torch.tensor([3.0, 5.0]), torch.tensor([3.0, 4.0]))
        0.2
    """
    error = (got.double() - expected.double()).norm()
    size = expected.double().norm()
    if not bool(torch.isfinite(size)) or bool(error <= 1e-30):
        return 0.0
    return float(error / size)


def check_gradient(program: Program, phi: Phi, image: Tensor) -> None:
    """Compare the program's δ with autograd's on one image.

    They differ where a network's backward pass is not that of its forward pass: custom autograd
    functions, hooks on gradients. In a deep network rounding alone can make a difference of some
    percent, where it decides the sign of a pre-activation; float64 then tells the two apart.

    Args:
        program: compiled from Φ.
        phi: Φ.
        image: (1, C, H, W), of the network's dtype.

    Raises:
        UnsupportedOperation: they differ by more than rounding.
    """
    error = distance_from_autograd(program, phi, image)
    if error > TOLERANCE[image.dtype] and image.dtype != torch.float64:
        exact = Phi(copy.deepcopy(phi.model).double(), phi.source, phi.kwargs)
        image = image.double()
        graph = trace(exact, image)
        error = distance_from_autograd(build(graph, image.dtype), exact, image)
        # A graph is part of a reference cycle, which would keep the copy of the weights alive
        # until Python collects it.
        del exact, graph
        gc.collect()
    if error > TOLERANCE[image.dtype]:
        raise UnsupportedOperation(
            f"its gradient is not that of its operations (they differ by {error:.0%} on the first "
            "image): a custom autograd function or a hook on gradients changes it"
        )


def distance_from_autograd(program: Program, phi: Phi, image: Tensor) -> float:
    """Relative L2 distance of the program's δ from autograd's; 0 where autograd's is not finite.

    Args:
        program: compiled from Φ.
        phi: Φ.
        image: (1, C, H, W), of the program's dtype.
    """
    with torch.enable_grad():
        x = image.detach().clone().requires_grad_()
        value = phi(x)
        (expected,) = torch.autograd.grad(value, x, torch.ones_like(value))
    with torch.no_grad():
        got = program.pullback_of_ones(image)
    return relative_distance(got, expected)
