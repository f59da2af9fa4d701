"""A batch's walk on chip: all steps in one launch, or two launches a step and the rest between."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sign_ext.engine.fused.step import Step
from sign_ext.engine.graphed import Record
from sign_ext.engine.onchip.network import OnChipNetwork
from sign_ext.engine.onchip.reference import delta_reference
from sign_ext.engine.trajectory import Problem, Trajectory, repeatable
from sign_ext.ops.onchip import onchip_

Run = Callable[..., None]  # onchip_, or an emulation of it


class OnChipTrajectory(Trajectory):
    """Steps of a network of which all, or the first layers, run on chip."""

    def __init__(
        self,
        problem: Problem,
        images: Tensor,
        network: OnChipNetwork,
        rest: Step | None = None,
        run: Run = onchip_,
    ) -> None:
        """Allocate for batches shaped as `images` (N, C, H, W).

        Args:
            problem: the call's.
            images: like those to come.
            network: what is on chip.
            rest: what runs between the two launches of a step, or None.
            run: the operator.
        """
        super().__init__(problem, images)
        self.network = network
        self._rest = rest
        self._run = run
        device = images.device
        self._features: Tensor | None = None
        self._residues: Tensor | None = None
        if not network.is_whole:
            self._features = torch.empty(
                (len(images), *network.features_shape), dtype=torch.bfloat16, device=device
            ).contiguous(memory_format=torch.channels_last)
            size = network.launches[0].plan.residue_bytes
            self._residues = torch.empty((len(images), size), dtype=torch.uint8, device=device)
        self._replay: Callable[[], None] = self._two_launches

    def record(self, record: Record) -> None:
        """Record a step of two launches, to be replayed.

        Args:
            record: turns a step into its replay.
        """
        if not self.network.is_whole:
            self._replay = record(self._two_launches, self.iterate.device)

    def _launch(self, which: int, steps: int, cotangent: Tensor | None = None) -> None:
        settings = self.problem.settings
        low, high = settings.clamp or (None, None)
        constants = self.network.constants
        self._run(
            self.iterate,
            self.network.launches[which].words,
            constants.weights,
            constants.floats,
            steps=steps,
            watch=self._watch,
            counts=self._counts,
            velocity=self.velocity,
            features=self._features,
            residues=self._residues,
            cotangent=cotangent,
            step_size=settings.step_size,
            momentum=settings.momentum,
            clamp_min=low,
            clamp_max=high,
        )

    def reference(self, images: Tensor) -> Tensor:
        """δ as a step on chip defines it, in float64.

        Args:
            images: (N, C, H, W).
        """
        trunk, given = self.network.trunk, self.network.seed

        def seed(value: Tensor) -> Tensor:
            if given is not None:
                return given.double().reshape(1, *trunk.layers[-1].shape).expand_as(value)
            assert self._rest is not None
            features = value.bfloat16().contiguous(memory_format=torch.channels_last)
            with repeatable(value.device):
                return self._rest.delta(features)

        return delta_reference(trunk.layers, images, seed, trunk.scale, trunk.shift)

    def _two_launches(self) -> None:
        """Forward on chip, the rest, and backward on chip."""
        with repeatable(self.iterate.device):
            self._forward_rest_backward()

    def _forward_rest_backward(self) -> None:
        assert self._rest is not None
        assert self._features is not None
        self._launch(0, 1)
        parts = self._features.split(self._rest.micro_batch)
        g = [self._rest.delta(part) for part in parts]
        cotangent = g[0] if len(g) == 1 else torch.cat(g)
        self._launch(1, 1, cotangent.contiguous(memory_format=torch.channels_last))

    def advance(self, steps: int) -> None:
        """p*_k → p*_{k+steps}."""
        if self.network.is_whole:
            with torch.no_grad():
                self._launch(0, steps)
            return
        for _ in range(steps):
            self._replay()

    def step(self) -> None:
        """Lines 3 and 4 of Algorithm 1."""
        self.advance(1)
