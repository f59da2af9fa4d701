"""Who is timed: only what computes Algorithm 1, seen by a reference in float64."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from sign_ext.benchmarking import loops
from sign_ext.benchmarking.task import Task

CHECKED = 8  # images that the reference transforms, spread over the batch
CLOSE = 0.03  # allowed beyond what rounding at the precision explains
MOST = 0.9  # as far off as that is another computation, whatever rounding does


class Reference:
    """p*_K of a few images, by the plain loop in float64 (or float32 where that fails).

    Args:
        task: the race.

    Attributes:
        dtype: "float64", or "float32" for a network that cannot compute in float64.
        rounding: the plain loop's own error at the race's precision.
        allowed: the error up to which a contender agrees. Networks with ReLUs amplify rounding:
            it decides on which side of 0 an input falls. So the plain loop is the yardstick.

    Raises:
        ValueError: the iterates leave the finite numbers.
    """

    def __init__(self, task: Task) -> None:
        """Compute it."""
        count = len(task.images)
        self._rows = torch.linspace(0, count - 1, min(count, CHECKED)).round().long()
        images = task.images[self._rows]
        self._p = images.double()
        self.dtype, self._exact = _exact(task, images)
        if not bool(torch.isfinite(self._exact).all()):
            raise ValueError(
                f"after {task.steps} steps the iterates are not finite: give fewer steps, or "
                "another range of pixels"
            )
        plain = loops.naive(task.phi(), task.steps, task.step_size)
        self.rounding = self._distance(loops.at(task.precision, plain)(images))
        self.allowed = min(CLOSE + 1.5 * self.rounding, MOST)

    def error(self, result: Tensor) -> float:
        """Distance of a result, p*_K of all images, over what the steps moved the images by."""
        return self._distance(result[self._rows])

    def _distance(self, found: Tensor) -> float:
        moved = (self._exact - self._p).norm()
        return float((found.double() - self._exact).norm() / moved)

    def objection(self, error: float) -> str | None:
        """Why a contender with this error is not timed, or None if it agrees."""
        if error <= self.allowed:
            return None
        return (
            f"computes something else: its error is {error:.2g}, and rounding explains at most "
            f"{self.allowed:.2g}"
        )


def _exact(task: Task, images: Tensor) -> tuple[str, Tensor]:
    with contextlib.suppress(RuntimeError, TypeError):
        phi = task.phi().double()
        return "float64", loops.naive(phi, task.steps, task.step_size)(images.double())
    plain = loops.naive(task.phi(), task.steps, task.step_size)
    return "float32", loops.at("float32", plain)(images).double()
