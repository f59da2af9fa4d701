"""How far one δ is from another, and whether a compiled δ is autograd's."""

from __future__ import annotations

import copy
import gc
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from sign_ext.compiler.build import build, recording_again
from sign_ext.compiler.trace import trace
from sign_ext.errors import UnsupportedOperation
from sign_ext.probe import pullback, random_signs, relative_distances
from sign_ext.source_layer import Phi

# A compiled δ that is further than this from autograd's is not explained by rounding.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-2, torch.bfloat16: 0.3, torch.float16: 0.1}
# A δ that is smaller than this, relative to the gradient of a sum of Φ with random signs, has
# cancelled: distances are then relative to that size. With the tolerance that is what rounding
# makes of a δ of zero (1e-14 of the gradient in float64 at most, in networks that end in a
# LayerNorm), and far less than a δ that is worth a step.
CANCELLED = {torch.float64: 1e-7, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.03}


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


@dataclass(frozen=True)
class Agreement:
    """How a compiled δ agrees with autograd's.

    Attributes:
        rounding: how far apart they are, which is rounding.
        least: the norm of an image's δ below which it has cancelled, and distances are relative to
            this; 0 where none had.
    """

    rounding: float
    least: float = 0.0

    def but_at_least(self, rounding: float) -> Agreement:
        """The same with a larger distance known to be rounding.

        Args:
            rounding: the other distance.
        """
        return replace(self, rounding=max(self.rounding, rounding))

    def with_cancelled(self, least: float) -> Agreement:
        """The same where δ has cancelled on another image.

        Args:
            least: the norm below which it has.
        """
        return replace(self, least=least)


class Pullback(Protocol):
    """What has δ: a program, or a step of it."""

    def pullback_of_ones(self, images: Tensor) -> Tensor:
        """δ = Σ_a ∂Φ^a/∂x^i."""


def check_gradient(program: Pullback, phi: Phi, images: Tensor) -> Agreement:
    """Compare the program's δ with autograd's on each of some images.

    They differ where a network's backward pass is not that of its forward pass: custom autograd
    functions, hooks on gradients. In a deep network rounding alone can make a difference of some
    percent, where it decides the sign of a pre-activation, and of any size where Φ's sum is
    constant, as after a LayerNorm, so that δ is nothing but rounding; float64 then tells the two
    apart.

    Args:
        program: compiled from Φ, or a step of such a program.
        phi: Φ.
        images: (N, C, H, W), of the network's dtype, different ones: at some nothing shows.

    Returns:
        How far apart they are.

    Raises:
        UnsupportedOperation: they differ by more than rounding.
    """
    _, expected = pullback(phi, images)
    found = Agreement(distance_of(program, images, expected))
    error, dtype = found.rounding, images.dtype
    if error > TOLERANCE[dtype]:
        least = cancelled_below(phi, images)
        rounding = distance_of(program, images, expected, least)
        some = least[least > 0]
        found = Agreement(
            rounding if rounding < float("inf") else TOLERANCE[dtype],
            float(some.min()) if len(some) else 0.0,
        )
        exact = None if dtype == torch.float64 else _distance_in_float64(phi, images.double())
        if exact is None:
            error = rounding
        else:
            error, dtype = exact, torch.float64
    if error > TOLERANCE[dtype]:
        raise UnsupportedOperation(
            f"its gradient is not that of its operations (they differ by {_percent(error)} on one "
            f"of {len(images)} images): a custom autograd function or a hook on gradients changes "
            "it, or the forward pass depends on more than its input"
        )
    return found


def _percent(error: float) -> str:
    return f"{error:.0%}" if error < 10 else "more than 1,000%"


def cancelled_below(phi: Phi, images: Tensor) -> Tensor:
    """The norm of each image's δ below which it is what cancels in Φ's sum, (N,) float64.

    Args:
        phi: Φ.
        images: (N, ...), of the network's dtype.
    """
    _, mixed = pullback(phi, images, random_signs)
    least = CANCELLED[images.dtype] * mixed.double().flatten(1).norm(dim=1)
    return torch.where(torch.isfinite(least), least, 0.0)


def _distance_in_float64(phi: Phi, images: Tensor) -> float | None:
    """The same with a copy of the network in float64, or None where there is none."""
    try:
        exact = Phi(copy.deepcopy(phi.model).double(), phi.source, phi.kwargs)
        graph = trace(exact, images[:1])
        program = build(graph, images.dtype, again=recording_again(exact, images[:1]))
        _, expected = pullback(exact, images)
        error = distance_of(program, images, expected, cancelled_below(exact, images))
    except Exception:  # not every network can be copied, or computes in float64
        return None
    # A graph is part of a reference cycle, which would keep the copy of the weights alive until
    # Python collects it.
    del exact, graph, program
    gc.collect()
    return error


def distance_of(
    program: Pullback, images: Tensor, expected: Tensor, least: Tensor | float = 0.0
) -> float:
    """The largest relative L2 distance of an image's δ from the expected one, where it is finite.

    Args:
        program: any program, or a step.
        images: (N, C, H, W), of the program's dtype.
        expected: δ at these.
        least: distances are relative to this where δ is smaller; one number or (N,) float64.
    """
    with torch.no_grad():
        got = program.pullback_of_ones(images)
    return float(relative_distances(got, expected, least).max())
