"""Algorithm 1 by its definition, in plain autograd and any dtype: the reference of every backend.

It is slow, and leaves layers, batches and devices to the caller.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def pullback_of_ones_reference(phi: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """δ = Σ_a ∂Φ^a/∂x^i at x (line 3 of Algorithm 1): the pull-back of a cotangent of ones."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (delta,) = torch.autograd.grad(phi(x).sum(), x)
    return delta


def iterative_sign_reference(
    phi: Callable[[Tensor], Tensor],
    p: Tensor,
    steps: int,
    *,
    step_size: float = 1.0,
    momentum: float = 0.0,
    linearize_at: str = "iterate",
    clamp: tuple[float | None, float | None] | None = None,
) -> Tensor:
    """p*_K of Algorithm 1.

    Args:
        phi: Φ, up to its source layer; samples do not interact.
        p: images (N, ...), any floating dtype; not modified.
        steps: K.
        step_size: what a step multiplies the velocity by (1 in the paper).
        momentum: μ of v ← μv + δ (0 is Algorithm 1 as printed).
        linearize_at: "iterate" (δ at p*_k) or "input" (δ at p, always).
        clamp: (lowest, highest) that p*_k is clamped to after each step; None is no bound.

    Returns:
        p*_K, shaped and typed as p.

    Example:
        >>> import torch
        >>> iterative_sign_reference(lambda x: 3 * x, torch.zeros(1, 1, 1, 1), steps=4).item()
        12.0
    """
    iterate = p.detach().clone()  # p*_0 = p
    velocity = torch.zeros_like(p)
    for _ in range(steps):
        delta = pullback_of_ones_reference(phi, iterate if linearize_at == "iterate" else p)
        velocity = momentum * velocity + delta
        iterate = iterate + step_size * velocity
        if clamp is not None:
            iterate = iterate.clamp(*clamp)
    return iterate
