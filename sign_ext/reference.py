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


def iterate_inputs_reference(
    objective: Callable[[Tensor], Tensor],
    p: Tensor,
    steps: int,
    *,
    update: str = "gradient",
    step_size: float = 1.0,
    momentum: float = 0.0,
    project: tuple[str, float] | None = None,
    clamp: tuple[float | None, float | None] | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """p_K of `iterate_inputs`, by its definition.

    Args:
        objective: f, from images (N, ...) to one number for each, (N,), by which images do not
            interact.
        p: images (N, ...), any floating dtype; not modified.
        steps: K.
        update: "gradient", "sign" or "l2".
        step_size: what a step multiplies the update by.
        momentum: μ of v ← μv + ∂f/∂p.
        project: ("linf", ε) or ("l2", ε) around p, or None.
        clamp: (lowest, highest) after the projection, or None.
        start: p_0, or None for p.

    Returns:
        p_K, shaped and typed as p.

    Example:
        >>> import torch
        >>> p = torch.zeros(1, 1, 1, 2)
        >>> iterate_inputs_reference(
        ...     lambda x: (3 * x).sum((1, 2, 3)), p, 4, update="sign", project=("linf", 2.5)
        ... ).tolist()
        [[[[2.5, 2.5]]]]
    """
    iterate = (p if start is None else start).detach().clone()
    velocity = torch.zeros_like(p)
    for _ in range(steps):
        velocity = momentum * velocity + pullback_of_ones_reference(objective, iterate)
        direction = velocity
        if update == "sign":
            direction = velocity.sign()
        elif update == "l2":
            direction = torch.stack([v / v.norm() if v.norm() else v for v in velocity])
        iterate = iterate + step_size * direction
        if project is not None:
            norm, radius = project
            offset = iterate - p
            if norm == "linf":
                offset = offset.clamp(-radius, radius)
            else:
                offset = torch.stack([d * (radius / max(float(d.norm()), radius)) for d in offset])
            iterate = p + offset
        if clamp is not None:
            iterate = iterate.clamp(*clamp)
    return iterate
