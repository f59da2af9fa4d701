"""Trajectories of compiled steps: depth-first in micro-batches on a CPU, one graph on CUDA."""

from __future__ import annotations

import torch
from torch import Tensor

from sign_ext.engine.fused.step import Step
from sign_ext.engine.graphed import Record
from sign_ext.engine.objective import NO_TARGET, Target
from sign_ext.engine.trajectory import Problem, Trajectory, repeatable
from sign_ext.ops.watch import NEVER


class FusedTrajectory(Trajectory):
    """A trajectory whose steps are those of a compiled program.

    Where the network begins with a convolution of few channels (its stem), δ is never in memory:
    the stem's input-backward updates the images directly.
    """

    def __init__(
        self, problem: Problem, images: Tensor, step: Step, target: Target = NO_TARGET
    ) -> None:
        """Allocate for batches shaped as `images` (N, C, H, W)."""
        super().__init__(problem, images, target=target)
        self._step = step
        by_stem = step.stem_weight is not None and self.iterate.dtype == torch.float32
        needs_delta = problem.settings.rule.needs_delta
        self._updates_by_stem = by_stem and self.delta is None and not needs_delta
        self._fills_by_stem = by_stem and needs_delta

    def pullback(self) -> Tensor:
        """δ at the iterate, micro-batch after micro-batch."""
        count, size = len(self.iterate), self._step.micro_batch
        rows = [slice(first, min(first + size, count)) for first in range(0, count, size)]
        with repeatable(self.iterate.device):
            if len(rows) == 1:
                return self._delta(rows[0])
            return torch.cat([self._delta(each) for each in rows])

    def _delta(self, rows: slice) -> Tensor:
        """δ of some rows, by the stem's update of zeros where there is one: it takes less time."""
        p, cotangent = self.iterate[rows], self.cotangent(rows)
        if not self._fills_by_stem:
            return self._step.delta(p, cotangent)
        return self._step.delta_by_stem(p, cotangent)

    def step(self) -> None:
        """Lines 3 and 4 of Algorithm 1."""
        if not self._updates_by_stem:
            super().step()
            return
        with repeatable(self.iterate.device):
            self._update(slice(0, len(self.iterate)), self._counts)

    def _update(self, rows: slice, counts: Tensor | None = None) -> None:
        """One step of some images; counted if there are counts.

        Without δ in memory where the stem updates the images.
        """
        settings = self.problem.settings
        p = self.iterate[rows]
        if settings.rule.needs_delta:
            self._apply(self._delta(rows), rows, counts)
            return
        low, high = settings.clamp or (None, None)
        self._step.update_by_stem(
            p,
            *self._step.stem_cotangent(p, self.cotangent(rows)),
            velocity=None if self.velocity is None else self.velocity[rows],
            watch=self._watch,
            counts=counts,
            step_size=settings.step_size,
            momentum=settings.momentum,
            clamp_min=low,
            clamp_max=high,
        )


class DepthFirstTrajectory(FusedTrajectory):
    """On a CPU: each micro-batch takes all its steps while its activations are in the cache."""

    def advance(self, steps: int) -> None:
        """p*_k → p*_{k+steps}."""
        size = self._step.micro_batch
        by_parts = self._updates_by_stem or self.problem.settings.rule.needs_delta
        if not by_parts or size >= len(self.iterate):
            super().advance(steps)
            return
        with repeatable(self.iterate.device):
            self._depth_first(steps, size)

    def _depth_first(self, steps: int, size: int) -> None:
        # The update operator counts a step for the whole batch, but here each micro-batch takes the
        # same steps again: they are counted once, below. To report the step that is bad first in
        # any micro-batch, each is followed to its own first bad step. The watch is zeroed then,
        # since the NaN in it would make the next micro-batch's first step look bad.
        taken = int(self._counts[0])
        first_bad = NEVER
        for first in range(0, len(self.iterate), size):
            rows = slice(first, min(first + size, len(self.iterate)))
            for k in range(1, steps + 1):
                self._update(rows)
                if not bool(torch.isfinite(self._watch).all()):
                    first_bad = min(first_bad, taken + k)
                    self._watch.zero_()
                    break
        self._counts[0] += steps
        self._counts[1].clamp_(max=first_bad)


class RecordedTrajectory(FusedTrajectory):
    """On CUDA: a step is recorded when the trajectory is made, and replayed."""

    def __init__(
        self,
        problem: Problem,
        images: Tensor,
        step: Step,
        record: Record,
        target: Target = NO_TARGET,
    ) -> None:
        """Allocate the buffers and record a step on them."""
        super().__init__(problem, images, step, target)
        self.start(images, target)  # the warm-up of a recording takes real steps
        self._replay = record(self.step, images.device)

    def advance(self, steps: int) -> None:
        """p*_k → p*_{k+steps}, by replaying the recorded step."""
        for _ in range(steps):
            self._replay()
