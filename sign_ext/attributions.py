"""Attributions: how much each pixel has to do with a network's answer, as averages of gradients.

    Sundararajan, Taly & Yan, Axiomatic attribution for deep networks, ICML 2017.
    Smilkov et al., SmoothGrad: removing noise by adding noise, 2017 (arXiv:1706.03825).

An average over m points of N images is m · N gradients, which the engine takes in batches as it
takes the steps of an iteration: one compiled program, whichever image a point belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sign_ext.checks import check_images, place_of
from sign_ext.engine.fused.tuning_plan import TuningPlan
from sign_ext.engine.trajectory import iterate_dtype
from sign_ext.iterate import InputIteration
from sign_ext.noise import draw_each, indices_of, seed_from
from sign_ext.progress import Progress
from sign_ext.settings import Objective

QUADRATURES = ("gauss_legendre", "midpoint", "right", "trapezoid")


def integrated_gradients(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    baseline: float | Tensor = 0.0,
    steps: int = 50,
    quadrature: str = "gauss_legendre",
    objective: Objective = "logit",
    batch_size: int | None = None,
    backend: str = "auto",
    precision: str = "float32",
    layer: str | None = None,
    tune: bool | TuningPlan = False,
    strict: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
    progress: Progress = False,
) -> Tensor:
    """Integrated gradients of each image (Sundararajan et al. 2017, equation 3).

        IG(p) = (p − p') · ∫₀¹ ∂f/∂p |_{p' + α (p − p')} dα ≈ (p − p') · Σ_j w_j ∂f/∂p |_{α_j}

    Their sum is f(p) − f(p'), up to the error of the sum over α ("completeness").

    Args:
        model: a trained network; left exactly as it is, in evaluation mode.
        images: p, (N, C, H, W), (N, C, D, H, W) or (N, C, T) floating, pixel units.
        labels: (N,) integers, the classes of f; None for objectives without.
        baseline: p', one number in pixel units for all, or a tensor that spreads over the images.
        steps: how many points α_j.
        quadrature: their rule. "gauss_legendre", exact for polynomials of degree 2·steps − 1;
            "midpoint", α_j = (j − ½)/m; "right", α_j = j/m, as in the paper; "trapezoid".
        objective: f: "logit", z_y; "cross_entropy", "margin", "features", or a function, as for
            `iterate_inputs`.
        batch_size: points at a time; those of several images share a batch.
        backend: "auto", "fused", "graphed" or "autograd".
        precision: "float32", "tf32" or "bfloat16".
        layer: the module whose output f reads; None: the whole network.
        tune: as for `iterative_sign`.
        strict: as for `iterative_sign`.
        model_kwargs: what else the network's forward pass takes, by name.
        progress: True, or a function of (points done, total).

    Returns:
        Shaped as images, float32 (float64 for a float64 network), in the units of f.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of range, or labels that do not fit the network.
        SourceLayerError, BackendError, DivergenceError: as `iterate_inputs`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from sign_ext import integrated_gradients
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False))
        >>> images, labels = torch.rand(3, 3, 2, 2) * 255, torch.tensor([0, 1, 1])
        >>> found = integrated_gradients(model, images, labels, steps=4)
        >>> logits = model(images).detach()[range(3), labels]
        >>> torch.allclose(found.sum((1, 2, 3)), logits, rtol=1e-4)
        True
    """
    alphas, weights = _quadrature(quadrature, _count("steps", steps))
    means = _Means(
        InputIteration(
            model,
            objective=objective,
            batch_size=batch_size,
            backend=backend,
            precision=precision,
            layer=layer,
            tune=tune,
            strict=strict,
        ),
        images,
        labels,
        model_kwargs,
    )
    origin = _baseline(baseline, images)

    def point(owners: Tensor, number: Tensor) -> Tensor:
        share = alphas.to(images.device)[number].to(means.dtype)
        share = share.view(-1, *[1] * (images.dim() - 1))
        ours = images[owners].detach().to(means.dtype)
        return torch.lerp(origin.to(means.dtype).expand_as(images)[owners], ours, share)

    mean = means.over(point, weights, progress)
    return mean.mul_(images.detach().to(mean.dtype) - origin.to(mean.dtype))


def smoothgrad(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    sigma: float,
    samples: int = 50,
    objective: Objective = "logit",
    seed: int = 0,
    generator: torch.Generator | None = None,
    indices: Tensor | None = None,
    batch_size: int | None = None,
    backend: str = "auto",
    precision: str = "float32",
    layer: str | None = None,
    tune: bool | TuningPlan = False,
    strict: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
    progress: Progress = False,
) -> Tensor:
    """SmoothGrad of each image: the mean gradient at noisy copies of it (Smilkov et al. 2017).

        M(p) = 1/n Σ_j ∂f/∂p |_{p + ε_j},  ε_j ~ N(0, σ² I)

    Args:
        model: a trained network; left exactly as it is, in evaluation mode.
        images: p, (N, C, H, W), (N, C, D, H, W) or (N, C, T) floating, pixel units.
        labels: (N,) integers, the classes of f; None for objectives without.
        sigma: σ in pixel units, above 0; the paper takes 10 to 20% of the images' range, 25 to 50.
        samples: n.
        objective: f, as for `integrated_gradients`.
        seed: of the noise, 0 or above. An image's noise depends on the seed, the copy and the
            image's index alone: not on the device, the batch, or the call's other images.
        generator: a CPU generator to draw the seed from, once a call, instead of `seed`.
        indices: int64 (N,), 0 or above, positions of the images in their data set; None for 0 to
            N − 1.
        batch_size: noisy copies at a time.
        backend: "auto", "fused", "graphed" or "autograd".
        precision: "float32", "tf32" or "bfloat16".
        layer: the module whose output f reads; None: the whole network.
        tune: as for `iterative_sign`.
        strict: as for `iterative_sign`.
        model_kwargs: what else the network's forward pass takes, by name.
        progress: True, or a function of (copies done, total).

    Returns:
        Shaped as images, float32 (float64 for a float64 network), in units of f for each grey
        level. Not the absolute value, which is for the reader to take.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of range, or labels that do not fit the network.
        SourceLayerError, BackendError, DivergenceError: as `iterate_inputs`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from sign_ext import smoothgrad
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> images, labels = torch.rand(3, 3, 2, 2) * 255, torch.tensor([0, 1, 1])
        >>> smoothgrad(model, images, labels, sigma=30.0, samples=8).shape
        torch.Size([3, 3, 2, 2])
    """
    if isinstance(sigma, bool) or not isinstance(sigma, Real):
        raise TypeError(f"sigma must be a number in pixel units, got {sigma!r}")
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma must be above 0 and finite, in pixel units; got {sigma:g}")
    count = _count("samples", samples)
    seed = seed_from(seed, generator)
    check_images(images)
    places = indices_of(indices, images)
    means = _Means(
        InputIteration(
            model,
            objective=objective,
            batch_size=batch_size,
            backend=backend,
            precision=precision,
            layer=layer,
            tune=tune,
            strict=strict,
        ),
        images,
        labels,
        model_kwargs,
    )

    def point(owners: Tensor, number: Tensor) -> Tensor:
        copies = zip(number.tolist(), owners.tolist(), strict=True)
        numbers = [(copy, places[owner]) for copy, owner in copies]
        noise = draw_each(images.shape[1:], seed, numbers, _normal)
        ours = images[owners].detach().to(means.dtype)
        return ours + noise.to(images.device, means.dtype).mul_(float(sigma))

    return means.over(point, torch.full((count,), 1 / count, dtype=torch.float64), progress)


def _normal(noise: Tensor, generator: torch.Generator) -> None:
    noise.normal_(generator=generator)


class _Means:
    """Weighted sums of gradients at points of each image.

    Attributes:
        dtype: that points are made in.
    """

    def __init__(
        self,
        iteration: InputIteration,
        images: Tensor,
        labels: Tensor | None,
        model_kwargs: Mapping[str, Any] | None,
    ) -> None:
        self.iteration = iteration
        self.images, self.labels = images, labels
        self.model_kwargs = model_kwargs
        self.dtype = torch.float32
        if isinstance(images, Tensor):
            self.dtype = iterate_dtype(place_of(iteration.model, images)[0])

    def over(self, point: Any, weights: Tensor, progress: Progress) -> Tensor:
        """Σ_j w_j ∂f/∂p at point j of each image.

        Args:
            point: from the numbers of images and of points, (count,) each, to these points.
            weights: w, (points,) float64.
            progress: as for `transform`.
        """
        images, count = self.images, len(weights)
        # Made where no inference mode is on, as the gradients are that are added to it.
        with torch.inference_mode(False):
            total = torch.zeros(images.shape, dtype=self.dtype, device=images.device)
        # Point after point of an image, so that few images are in a batch.
        owners = torch.arange(len(images)).repeat_interleave(count)
        numbers = torch.arange(count).repeat(len(images))

        def points(rows: slice) -> Tensor:
            made: Tensor = point(owners[rows].to(images.device), numbers[rows].to(images.device))
            return made

        def add(rows: slice, gradients: Tensor) -> None:
            w = weights[numbers[rows]].to(gradients)
            w = w.view(-1, *[1] * (images.dim() - 1))
            with torch.no_grad():
                total.index_add_(0, owners[rows].to(images.device), gradients * w)

        self.iteration.gradients_at(
            images, self.labels, owners.tolist(), points, add, self.model_kwargs, progress
        )
        return total


def _quadrature(rule: str, count: int) -> tuple[Tensor, Tensor]:
    """Points α and weights of a rule on [0, 1], float64.

    Args:
        rule: one of `QUADRATURES`.
        count: of points.
    """
    if rule not in QUADRATURES:
        raise ValueError(f"quadrature must be one of {', '.join(QUADRATURES)}; got {rule!r}")
    if rule == "gauss_legendre":
        nodes, weights = np.polynomial.legendre.leggauss(count)
        return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
    if rule == "trapezoid":
        if count < 2:
            raise ValueError('quadrature="trapezoid" needs 2 steps or more')
        weights_t = torch.full((count,), 1 / (count - 1), dtype=torch.float64)
        weights_t[0] = weights_t[-1] = 0.5 / (count - 1)
        return torch.linspace(0, 1, count, dtype=torch.float64), weights_t
    shift = 0.5 if rule == "midpoint" else 0.0
    alphas = (torch.arange(1, count + 1, dtype=torch.float64) - shift) / count
    return alphas, torch.full((count,), 1 / count, dtype=torch.float64)


def _baseline(baseline: Any, images: Any) -> Tensor:
    """The baseline as a tensor that spreads over the images."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a torch.Tensor, got {type(images).__name__}")
    if isinstance(baseline, Tensor):
        if baseline.device != images.device:
            raise ValueError(
                f"baseline is on {baseline.device}, images on {images.device}: pass "
                f"baseline.to({str(images.device)!r})"
            )
        try:
            fits = torch.broadcast_shapes(baseline.shape, images.shape) == images.shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"baseline has shape {tuple(baseline.shape)}, which does not spread over images of "
                f"{tuple(images.shape)}"
            )
        if not bool(torch.isfinite(baseline).all()):
            raise ValueError("baseline holds NaN or Inf")
        return baseline.detach()
    if isinstance(baseline, bool) or not isinstance(baseline, Real):
        raise TypeError(f"baseline must be a number or a tensor, got {baseline!r}")
    if not math.isfinite(baseline):
        raise ValueError(f"baseline must be finite, got {baseline}")
    return torch.full((1,), float(baseline), dtype=torch.float64, device=images.device)


def _count(name: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value
