"""How far one δ is from another, and whether a compiled δ is autograd's."""

from __future__ import annotations

import copy
import gc
from typing import Protocol

import torch
from torch import Tensor

from sign_ext.compiler.build import build, recording_again
from sign_ext.compiler.trace import trace
from sign_ext.errors import UnsupportedOperation
from sign_ext.probe import pullback, relative_distances
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


class Pullback(Protocol):
    """What has δ: a program, or a step of it."""

    def pullback_of_ones(self, images: Tensor) -> Tensor:
        """δ = Σ_a ∂Φ^a/∂x^i."""


def check_gradient(program: Pullback, phi: Phi, images: Tensor) -> float:
    """Compare the program's δ with autograd's on each of some images.

    They differ where a network's backward pass is not that of its forward pass: custom autograd
    functions, hooks on gradients. In a deep network rounding alone can make a difference of some
    percent, where it decides the sign of a pre-activation; float64 then tells the two apart.

    Args:
        program: compiled from Φ, or a step of such a program.
        phi: Φ.
        images: (N, C, H, W), of the network's dtype, different ones: at some nothing shows.

    Returns:
        How far apart they are, which is rounding.

    Raises:
        UnsupportedOperation: they differ by more than rounding.
    """
    error = rounding = distance_from_autograd(program, phi, images)
    most = TOLERANCE[images.dtype]
    if error > most and images.dtype != torch.float64:
        exact = _distance_in_float64(phi, images.double())
        if exact is not None:
            error, most = exact, TOLERANCE[torch.float64]
    if error > most:
        raise UnsupportedOperation(
            f"its gradient is not that of its operations (they differ by {error:.0%} on one of "
            f"{len(images)} images): a custom autograd function or a hook on gradients changes it, "
            "or the forward pass depends on more than its input"
        )
    return rounding


def _distance_in_float64(phi: Phi, images: Tensor) -> float | None:
    """The same with a copy of the network in float64, or None where there is none."""
    try:
        exact = Phi(copy.deepcopy(phi.model).double(), phi.source, phi.kwargs)
        graph = trace(exact, images[:1])
        program = build(graph, images.dtype, again=recording_again(exact, images[:1]))
        error = distance_from_autograd(program, exact, images)
    except Exception:  # not every network can be copied, or computes in float64
        return None
    # A graph is part of a reference cycle, which would keep the copy of the weights alive until
    # Python collects it.
    del exact, graph, program
    gc.collect()
    return error


def distance_from_autograd(program: Pullback, phi: Phi, images: Tensor) -> float:
    """The largest relative L2 distance of an image's δ from autograd's, where that is finite.

    Args:
        program: compiled from Φ.
        phi: Φ.
        images: (N, C, H, W), of the program's dtype.
    """
    _, expected = pullback(phi, images)
    return distance_of(program, images, expected)


def distance_of(program: Pullback, images: Tensor, expected: Tensor) -> float:
    """The largest relative L2 distance of an image's δ from the expected one, where it is finite.

    Args:
        program: any program, or a step.
        images: (N, C, H, W), of the program's dtype.
        expected: δ at these.
    """
    with torch.no_grad():
        got = program.pullback_of_ones(images)
    return float(relative_distances(got, expected).max())
