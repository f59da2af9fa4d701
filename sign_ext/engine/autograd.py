"""The `autograd` backend: any module, on any device, one eager forward and backward a step.

It is already leaner than a naive loop: parameters are frozen, so no weight gradient is computed,
and networks of 2-d convolutions run in channels_last.
"""

from __future__ import annotations

from torch import Tensor

from sign_ext.engine.trajectory import Problem, Trajectory


class AutogradEngine:
    """Starts eager trajectories."""

    name = "autograd"

    def start(self, problem: Problem, images: Tensor) -> Trajectory:
        """A trajectory at p*_0 = `images` (N, ...), which are copied."""
        trajectory = Trajectory(problem, images)
        trajectory.start(images)
        return trajectory
