"""SIGN as a function, `iterative_sign`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from sign_ext.engine.fused.tuning_plan import TuningPlan
from sign_ext.progress import Progress
from sign_ext.settings import LinearizeAt
from sign_ext.sign import SignTransform


def iterative_sign(
    model: nn.Module,
    images: Tensor,
    steps: int = 50,
    *,
    layer: str | None = None,
    step_size: float = 1.0,
    momentum: float = 0.0,
    linearize_at: LinearizeAt = "iterate",
    clamp: tuple[float | None, float | None] | None = None,
    snapshots: Sequence[int] | None = None,
    batch_size: int | None = None,
    backend: str = "auto",
    precision: str = "float32",
    tune: bool | TuningPlan = False,
    out: Tensor | Mapping[int, Tensor] | None = None,
    progress: Progress = False,
) -> Tensor | dict[int, Tensor]:
    """Algorithm 1, Iterative SIGN: add Σ_a ∂Φ^a/∂x^i to the images, K times.

    Args, results and errors are those of `SignTransform` and its `transform`, which is the better
    choice for many calls with one network.

    Args:
        model: a trained network; left exactly as it is.
        images: (N, C, H, W) floating, pixel units 0–255 for this project's networks.
        steps: K.
        layer: make Φ this module's output; None takes the final classifier's input.
        step_size: factor of each step (the paper: 1).
        momentum: μ of v ← μv + δ (0: Algorithm 1 as printed).
        linearize_at: "iterate" or "input".
        clamp: (lowest, highest) for p*, or None.
        snapshots: steps to return, all from one trajectory.
        batch_size: images at a time.
        backend: "auto", "onchip", "fused", "graphed" or "autograd".
        precision: "float32", "tf32" or "bfloat16".
        tune: True measures the fused backend's algorithms first, or a `TuningPlan`.
        out: where to write; `out=images` works in place.
        progress: True, or a function of (done, total).

    Returns:
        p*_K shaped as images, float32 (float64 for a float64 network); with snapshots a dict from
        step to such a tensor.

    Raises:
        TypeError, ValueError, SourceLayerError, BackendError, DivergenceError: as SignTransform.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from sign_ext import iterative_sign
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> iterative_sign(model, torch.rand(3, 3, 2, 2) * 255, steps=2).shape
        torch.Size([3, 3, 2, 2])
    """
    sign = SignTransform(
        model,
        steps,
        layer=layer,
        step_size=step_size,
        momentum=momentum,
        linearize_at=linearize_at,
        clamp=clamp,
        snapshots=snapshots,
        batch_size=batch_size,
        backend=backend,
        precision=precision,
        tune=tune,
    )
    return sign.transform(images, out=out, progress=progress)
