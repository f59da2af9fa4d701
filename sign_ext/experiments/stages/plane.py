"""Figures 1 and 2 of the paper, computed: mixup and SIGN where a manifold is seen, in the plane.

The paper sketches both. Here two classes lie on two half circles that interlock, a small network
is trained on points near them, and mixup and SIGN move these points. The curves are known, so which
class a moved point belongs to does not rest on any network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from sign_ext import SignTransform, pushforward
from sign_ext.evaluation import Answers, features, predict
from sign_ext.experiments.stages.measure import ANSWERS
from sign_ext.experiments.stages.stage import RunContext, Stage
from sign_ext.experiments.stages.versions import snapshots_of

CLASSES = ("upper half circle", "lower half circle")
HIDDEN = 32
SPREAD = 0.08  # standard deviation of the points around the curves, whose radius is 1
CURVE_POINTS = 400
GRID = 41  # points a side of the decision boundary
ARROWS = 13  # of the gradient field, a side
FOLLOWED = 14  # points whose way is drawn
CORNERS = (-1.6, 2.6, -1.4, 1.9)  # of the pictures: left, right, below, above
SEARCHES = 20  # halvings of the step size's interval
TEST_SEED = 20_191_108  # of the points that are moved: the same for every seed


@dataclass(frozen=True, eq=False)
class PlaneExample(Stage):
    """Train a network on points of the plane, and move them by mixup, by SIGN and by noise.

    Attributes:
        seed: of points, weights, mixup and noise.
        points: of each class, in each of the training and the test set.
        epochs: gradient steps on all training points.
        snapshots: K of SIGN.
        change: rms change of a coordinate at the largest K, which the step size is chosen for.
    """

    kind: ClassVar[str] = "plane"
    version: ClassVar[int] = 1

    seed: int
    points: int
    epochs: int
    snapshots: tuple[int, ...]
    change: float

    def title(self) -> str:
        """Name the seed."""
        return f"mixup and SIGN in the plane, seed {self.seed}"

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Train, move and measure; the pictures' numbers are in the outcome."""
        generator = torch.Generator().manual_seed(self.seed)
        train, labels = half_circles(self.points, generator)
        points, classes = half_circles(self.points, torch.Generator().manual_seed(TEST_SEED))
        model = _trained(train, labels, self.epochs, self.seed)
        mixed, mixed_classes, moved_by = mix(points, classes, generator)
        step_size = self._step_size(model, train, self.change)
        moved = self._moved(model, points, step_size)
        last = moved[max(self.snapshots)]
        rms = float((last - points).double().square().mean().sqrt())
        far = self._moved(model, points, self._step_size(model, train, moved_by))
        noisy = points + rms * torch.randn(points.shape, generator=generator)
        versions = {
            "p": (points, classes),
            "mixup": (mixed, mixed_classes),
            "sign": (last, classes),
            "sign_far": (far[max(self.snapshots)], classes),
            "noise": (noisy, classes),
        }
        every: dict[str, np.ndarray] = {}
        means: dict[str, dict[str, float]] = {}
        for name, (where, whose) in versions.items():
            distances = distances_to_curves(where)
            wrong = distances.argmin(dim=1) != whose
            own = distances.gather(1, whose[:, None])[:, 0]
            every |= {f"wrong_{name}": wrong.numpy(), f"distance_{name}": own.float().numpy()}
            means[name] = {"wrong": float(wrong.double().mean()), "distance": float(own.mean())}
        Answers(every).write(folder / ANSWERS)
        right = predict(model, as_images(points)).argmax(dim=1) == classes
        return {
            "versions": means,
            "points": len(points),
            "accuracy": float(right.double().mean()),
            "step_size": step_size,
            "rms": rms,
            "mixup_rms": moved_by,
            "figure1": [
                _labelled_panel("mixup", mixed, mixed_classes),
                _labelled_panel("SIGN", last, classes),
                _labelled_panel("SIGN, as far as mixup", far[max(self.snapshots)], classes),
            ],
            "figure2": _figure2(model, points, classes, moved, step_size),
        }

    def _moved(self, model: nn.Module, points: Tensor, step_size: float) -> dict[int, Tensor]:
        steps = max(self.snapshots)
        sign = SignTransform(
            model, steps, step_size=step_size, snapshots=self.snapshots, backend="autograd"
        )
        return {k: each.flatten(1) for k, each in snapshots_of(sign, as_images(points)).items()}

    def _step_size(self, model: nn.Module, points: Tensor, change: float) -> float:
        """The step size that changes training points by this rms at the largest K."""
        low, high = 0.0, 0.1
        for _ in range(SEARCHES):
            middle = (low + high) / 2
            moved = self._moved(model, points, middle)[max(self.snapshots)]
            smaller = float((moved - points).square().mean().sqrt()) < change
            low, high = (middle, high) if smaller else (low, middle)
        return (low + high) / 2


def curves(count: int = CURVE_POINTS) -> Tensor:
    """Points on the two half circles that the classes lie on, float32 (2, count, 2)."""
    t = torch.linspace(0, math.pi, count)
    upper = torch.stack([t.cos(), t.sin()], dim=1)
    lower = torch.stack([1 - t.cos(), 0.5 - t.sin()], dim=1)
    return torch.stack([upper, lower])


def half_circles(each: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw points near the curves.

    Args:
        each: of each class.
        generator: draws them.

    Returns:
        float32 (2·each, 2), and int64 (2·each,), the classes 0 and 1.
    """
    t = math.pi * torch.rand(2, each, generator=generator)
    upper = torch.stack([t[0].cos(), t[0].sin()], dim=1)
    lower = torch.stack([1 - t[1].cos(), 0.5 - t[1].sin()], dim=1)
    on_curves = torch.cat([upper, lower])
    spread = SPREAD * torch.randn(on_curves.shape, generator=generator)
    return on_curves + spread, torch.arange(2).repeat_interleave(each)


def distances_to_curves(points: Tensor) -> Tensor:
    """The distance of points (N, 2) to each class's curve, (N, 2); of the curve's sampled points.

    Example:
        >>> found = distances_to_curves(torch.tensor([[0.0, 1.0]]))
        >>> [round(each, 2) for each in found[0].tolist()]
        [0.0, 0.5]
    """
    return torch.stack([torch.cdist(points, curve).min(dim=1).values for curve in curves()], dim=1)


def mix(
    points: Tensor, classes: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, float]:
    """mixup with α = 1: each point with a random partner.

    Args:
        points: float (N, 2).
        classes: int64 (N,).
        generator: draws partners, and λ from 0 to 1, one a point.

    Returns:
        λp + (1 − λ)p'; the class that has the larger weight in the mixed label; and the rms
        change of a coordinate of the point that has it.
    """
    partner = torch.randperm(len(points), generator=generator)
    weight = torch.rand(len(points), 1, generator=generator)
    mixed = weight * points + (1 - weight) * points[partner]
    heavier = torch.where(weight >= 0.5, points, points[partner])
    moved_by = float((mixed - heavier).double().square().mean().sqrt())
    return mixed, torch.where(weight[:, 0] >= 0.5, classes, classes[partner]), moved_by


def as_images(points: Tensor) -> Tensor:
    """Points (N, 2) as images (N, 2, 1, 1), which networks here take."""
    return points[:, :, None, None]


def _trained(points: Tensor, classes: Tensor, epochs: int, seed: int) -> nn.Module:
    """Train a network with two hidden layers by Adam on all points at once."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Flatten(),
            nn.Linear(2, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, len(CLASSES)),
        )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(epochs):
        loss = nn.functional.cross_entropy(model(as_images(points)), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def _figure2(
    model: nn.Module,
    points: Tensor,
    classes: Tensor,
    moved: dict[int, Tensor],
    step_size: float,
) -> list[dict[str, Any]]:
    """The panels of Figure 2: the plane with the field of δ, and Φ's outputs with Φ_*δ."""
    some = torch.arange(FOLLOWED).mul(len(points)).div(FOLLOWED, rounding_mode="floor")
    ways = torch.stack([points[some], *(moved[k][some] for k in sorted(moved))], dim=1)
    field = _grid(ARROWS)
    delta = _delta(model, field)
    lengths = delta.norm(dim=1, keepdim=True)
    # The longest arrow is as long as the grid is wide.
    arrows = delta / lengths.max().clamp_min(1e-12) * (CORNERS[1] - CORNERS[0]) / ARROWS
    grid = _grid(GRID)
    logits = predict(model, as_images(grid))
    margin = (logits[:, 1] - logits[:, 0]).reshape(GRID, GRID)
    plane = {
        **_points_of(points, classes),
        "title": "N: points p, the field of δ, p → p*",
        "curves": _curves_of(),
        "arrows": _arrows(field, arrows),
        "paths": [_path(way) for way in ways],
        "contour": {
            "x": _rounded(grid.reshape(GRID, GRID, 2)[0, :, 0]),
            "y": _rounded(grid.reshape(GRID, GRID, 2)[:, 0, 1]),
            "z": [_rounded(row) for row in margin],
        },
    }
    outputs = features(model, as_images(points))
    axes = _principal_axes(outputs)
    centre = outputs.mean(dim=0)
    along = features(model, as_images(ways.flatten(0, 1)))
    tangents = as_images(step_size * max(moved) * _delta(model, points[some]))
    pushed = pushforward(model, as_images(points[some]), tangents).flatten(1)
    target = {
        **_points_of((outputs - centre) @ axes, classes),
        "title": "M: Φ(p), Φ(p) → Φ(p*), and Φ∗ of K·δ",
        "curves": [],
        "arrows": _arrows(((outputs[some] - centre) @ axes), (pushed.to(axes.dtype) @ axes)),
        "paths": [_path(way) for way in ((along - centre) @ axes).reshape(FOLLOWED, -1, 2)],
        "contour": None,
    }
    return [plane, target]


def _delta(model: nn.Module, points: Tensor) -> Tensor:
    """δ of Algorithm 1 at points, (N, 2)."""
    sign = SignTransform(model, 1, snapshots=(1,), backend="autograd")
    return snapshots_of(sign, as_images(points))[1].flatten(1) - points


def _principal_axes(outputs: Tensor) -> Tensor:
    """The two directions of largest variance, (features, 2), with signs that do not vary."""
    _, _, right = torch.linalg.svd(outputs - outputs.mean(dim=0), full_matrices=False)
    axes = right[:2]
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    return (axes * largest.sign()).T


def _labelled_panel(title: str, points: Tensor, classes: Tensor) -> dict[str, Any]:
    """A panel of Figure 1: moved points by their label, and rings around the wrong ones."""
    wrong = distances_to_curves(points).argmin(dim=1) != classes
    return {
        **_points_of(points, classes),
        "title": f"{title}: {int(wrong.sum())} of {len(points)} labels wrong",
        "curves": _curves_of(),
        "rings": {"x": _rounded(points[wrong, 0]), "y": _rounded(points[wrong, 1])},
    }


def _points_of(points: Tensor, classes: Tensor) -> dict[str, Any]:
    return {
        "x": _rounded(points[:, 0]),
        "y": _rounded(points[:, 1]),
        "label": classes.tolist(),
    }


def _curves_of() -> list[dict[str, Any]]:
    return [
        {"x": _rounded(curve[:, 0]), "y": _rounded(curve[:, 1]), "label": index}
        for index, curve in enumerate(curves(40))
    ]


def _arrows(where: Tensor, along: Tensor) -> dict[str, list[float]]:
    return {
        "x": _rounded(where[:, 0]),
        "y": _rounded(where[:, 1]),
        "u": _rounded(along[:, 0]),
        "v": _rounded(along[:, 1]),
    }


def _path(way: Tensor) -> dict[str, list[float]]:
    return {"x": _rounded(way[:, 0]), "y": _rounded(way[:, 1])}


def _grid(side: int) -> Tensor:
    left, right, below, above = CORNERS
    y, x = torch.meshgrid(
        torch.linspace(below, above, side), torch.linspace(left, right, side), indexing="ij"
    )
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def _rounded(values: Tensor) -> list[float]:
    return [round(float(each), 4) for each in values]
