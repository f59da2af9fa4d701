"""Trajectories on chip: all steps in one launch, or two launches a step and the rest in between."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sign_ext.engine.fused.step import Step
from sign_ext.engine.graphed import Record
from sign_ext.engine.onchip.network import OnChipNetwork
from sign_ext.engine.onchip.reference import delta_reference
from sign_ext.engine.trajectory import Problem, Trajectory, repeatable
from sign_ext.ops.onchip import onchip_

Run = Callable[..., None]  # onchip_, or an emulation of it


@dataclass(frozen=True, eq=False)
class ObservedStep:
    """A step of the kernel, and what it kept during it.

    Attributes:
        iterate: p after the step, (N, C, H, W), float32.
        residues: the mask bits and pooling positions, uint8, (N, bytes of an image).
        features: the last value on chip, bfloat16, or None where all of the network is.
        cotangent: of the last value, as passed to the kernel, (N, C, H, W).
    """

    iterate: Tensor
    residues: Tensor
    features: Tensor | None
    cotangent: Tensor


class OnChipTrajectory(Trajectory):
    """Steps of a network that runs on chip, all of it or its first layers."""

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
            self._residues = self._new_residues()
        self._replay: Callable[[], None] = self._two_launches

    def _new_residues(self) -> Tensor:
        size = self.network.launches[0].plan.residue_bytes
        shape = (len(self.iterate), size)
        return torch.zeros(shape, dtype=torch.uint8, device=self.iterate.device)

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
            self.network.launches[which].args,
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
        trunk, constant_seed = self.network.trunk, self.network.seed

        def seed(value: Tensor) -> Tensor:
            if constant_seed is not None:
                return constant_seed.double().reshape(1, *trunk.layers[-1].shape).expand_as(value)
            assert self._rest is not None
            features = value.bfloat16().contiguous(memory_format=torch.channels_last)
            with repeatable(value.device):
                return self._rest.delta(features)

        return delta_reference(trunk.layers, images, seed, trunk.scale, trunk.shift)

    def observe(self, images: Tensor, **options: Any) -> ObservedStep:
        """The first step from `images`, by the same launches as every step.

        Args:
            images: (N, C, H, W).
            **options: settings of this step that differ from the call's.
        """
        # A shallow copy: it steps on this trajectory's iterate, velocity and counts, but has
        # residues of its own: launches of whole steps write none otherwise.
        probe = copy.copy(self)
        settings = replace(self.problem.settings, **options)
        probe.problem = replace(self.problem, settings=settings)
        probe._residues = self._new_residues()
        probe.start(images)
        if self.network.is_whole:
            probe.advance(1)
            assert self.network.seed is not None
            shape = (len(images), *self.network.features_shape)
            cotangent = self.network.seed.reshape(1, *shape[1:]).expand(shape)
        else:
            with repeatable(images.device):
                cotangent = probe._forward_rest_backward()
        features = None if self._features is None else self._features.clone()
        return ObservedStep(self.iterate.clone(), probe._residues, features, cotangent)

    def _two_launches(self) -> None:
        """Forward on chip, the rest, and backward on chip."""
        with repeatable(self.iterate.device):
            self._forward_rest_backward()

    def _forward_rest_backward(self) -> Tensor:
        """One step; returns the cotangent of the last value on chip."""
        assert self._rest is not None
        assert self._features is not None
        self._launch(0, 1)
        parts = self._features.split(self._rest.micro_batch)
        g = [self._rest.delta(part) for part in parts]
        cotangent = g[0] if len(g) == 1 else torch.cat(g)
        cotangent = cotangent.contiguous(memory_format=torch.channels_last)
        self._launch(1, 1, cotangent)
        return cotangent

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
